#include "proto/status.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(status, every_row_has_its_own_value_and_is_found_again) {
    for (unsigned i = 0; i < KVF_STATUS_COUNT; i++) {
        kvf_status_t status = kvf_status_at(i);
        cr_assert(kvf_status_is_known(status));
        cr_assert_eq(kvf_status_index(status), i, "two rows share the value of %s", kvf_status_name(status));
        cr_assert_str_neq(kvf_status_text(status), "unknown status");
    }
}

Test(status, a_number_from_outside_the_table_is_named_as_such) {
    cr_assert_not(kvf_status_is_known(INT64_MIN));
    cr_assert_not(kvf_status_is_known((int64_t)1 << 32));
    cr_assert_str_eq(kvf_status_text((kvf_status_t)-12345), "unknown status");
    cr_assert_eq(kvf_status_at(KVF_STATUS_COUNT), KVF_ERR_INTERNAL);
}

Test(status, errno_is_translated_and_never_to_success) {
    cr_assert_eq(kvf_status_from_errno(0), KVF_OK);
    for (int e = 1; e < 200; e++) cr_assert_lt(kvf_status_from_errno(e), 0, "errno %d", e);
    cr_assert_eq(kvf_status_from_errno(EADDRINUSE), KVF_ERR_ADDRESS_IN_USE);
}
