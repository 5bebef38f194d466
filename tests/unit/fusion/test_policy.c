#include "fusion/policy.h"

#include <criterion/criterion.h>
#include <locale.h>
#include <math.h>
#include <string.h>

static char why[256];

static kvf_status_t check(kvf_policy_t policy) {
    why[0] = 0;
    return kvf_policy_check(&policy, why, sizeof(why));
}

static kvf_policy_t error_of(float k, float v) {
    return (kvf_policy_t){.kind = KVF_POLICY_ERROR, .error_k = k, .error_v = v};
}
static kvf_policy_t ratio_of(float ratio) { return (kvf_policy_t){.kind = KVF_POLICY_RATIO, .ratio = ratio}; }
static kvf_policy_t fuse_of(float tau) { return (kvf_policy_t){.kind = KVF_POLICY_FUSE, .tau = tau}; }

/* ---- check ---- */

#define REFUSED(policy, field)                                                                                         \
    do {                                                                                                               \
        cr_assert_eq(check(policy), KVF_ERR_INVALID);                                                                  \
        cr_assert(strstr(why, field), "'%s' does not name %s", why, field);                                            \
    } while (0)

Test(policy, each_kind_takes_its_range_to_the_ends) {
    cr_assert_eq(check((kvf_policy_t){0}), KVF_OK, "all 0 is exact");
    cr_assert_eq(check(error_of(1, 1e-6f)), KVF_OK);
    cr_assert_eq(check(ratio_of(1.5f)), KVF_OK);
    cr_assert_eq(check(ratio_of(64)), KVF_OK);
    cr_assert_eq(check(fuse_of(0.5f)), KVF_OK);
    cr_assert_eq(check(fuse_of(nextafterf(1, 0))), KVF_OK);
}

Test(policy, what_is_beyond_its_range_is_refused_by_the_fields_name) {
    REFUSED(error_of(0, 0.1f), "error_k");
    REFUSED(error_of(0.1f, 0), "error_v");
    REFUSED(error_of(1.01f, 0.1f), "error_k is 1.01");
    REFUSED(error_of(0.1f, -0.1f), "error_v");
    REFUSED(error_of(NAN, 0.1f), "error_k");
    REFUSED(error_of(0.1f, INFINITY), "error_v");
    REFUSED(ratio_of(0), "ratio");
    REFUSED(ratio_of(1.4f), "ratio");
    REFUSED(ratio_of(65), "ratio is 65, must be 1.5 to 64");
    REFUSED(ratio_of(NAN), "ratio");
    REFUSED(fuse_of(0.49f), "tau");
    REFUSED(fuse_of(1), "tau");
    REFUSED(fuse_of(NAN), "tau");
}

Test(policy, fields_of_other_kinds_must_be_0) {
    kvf_policy_t policy = {.kind = KVF_POLICY_EXACT, .error_v = 0.1f};
    REFUSED(policy, "error_v is 0.1");
    policy = (kvf_policy_t){.kind = KVF_POLICY_EXACT, .tau = NAN};
    REFUSED(policy, "tau");
    policy = error_of(0.1f, 0.1f);
    policy.ratio = 8;
    REFUSED(policy, "ratio is 8, must be 0 with policy error");
    policy = ratio_of(8);
    policy.error_k = 0.1f;
    REFUSED(policy, "error_k");
    policy = fuse_of(0.9f);
    policy.ratio = 2;
    REFUSED(policy, "ratio");
}

Test(policy, a_kind_that_is_none_is_refused) {
    cr_assert_eq(check((kvf_policy_t){.kind = (kvf_policy_kind_t)9}), KVF_ERR_POLICY);
    cr_assert(strstr(why, "exact, error, ratio, fuse"));
    cr_assert_eq(check((kvf_policy_t){.kind = (kvf_policy_kind_t)UINT32_MAX}), KVF_ERR_POLICY);
    cr_assert_eq(kvf_policy_check(&(kvf_policy_t){.kind = (kvf_policy_kind_t)9}, NULL, 0), KVF_ERR_POLICY);
}

/* ---- compare ---- */

#define TELLS_APART(made, asked, text)                                                                                 \
    do {                                                                                                               \
        kvf_policy_t made_ = (made), asked_ = (asked);                                                                 \
        cr_assert_eq(kvf_policy_compare(&made_, &asked_, why, sizeof(why)), KVF_ERR_POLICY);                           \
        cr_assert(strstr(why, text), "'%s' does not say '%s'", why, text);                                             \
        cr_assert_eq(kvf_policy_compare(&made_, &made_, why, sizeof(why)), KVF_OK);                                    \
    } while (0)

Test(policy, comparison_names_the_field_and_both_values) {
    TELLS_APART((kvf_policy_t){0}, ratio_of(8), "policy: the space has exact, asked for ratio");
    TELLS_APART(error_of(0.5f, 0.25f), error_of(0.125f, 0.25f), "error_k: the space has 0.5, asked for 0.125");
    TELLS_APART(error_of(0.5f, 0.25f), error_of(0.5f, 0.5f), "error_v: the space has 0.25, asked for 0.5");
    TELLS_APART(ratio_of(8), ratio_of(16), "ratio: the space has 8, asked for 16");
    TELLS_APART(fuse_of(0.5f), fuse_of(0.75f), "tau: the space has 0.5, asked for 0.75");
    TELLS_APART(error_of(0.05f, 0.1f), error_of(nextafterf(0.05f, 1), 0.1f), "error_k");
}

/* ---- read and print ---- */

static kvf_policy_t read_policy(const char *text) {
    kvf_policy_t policy;
    cr_assert_eq(kvf_policy_read(text, &policy, why, sizeof(why)), KVF_OK, "'%s': %s", text, why);
    return policy;
}

static bool is_same(kvf_policy_t a, kvf_policy_t b) { return kvf_policy_compare(&a, &b, why, sizeof(why)) == KVF_OK; }

Test(policy, every_form_is_read) {
    cr_assert(is_same(read_policy("exact"), (kvf_policy_t){0}));
    cr_assert(is_same(read_policy("error 0.05"), error_of(0.05f, 0.05f)));
    cr_assert(is_same(read_policy("error K=0.05,V=0.1"), error_of(0.05f, 0.1f)));
    cr_assert(is_same(read_policy("error V=.1,K=5e-2"), error_of(0.05f, 0.1f)));
    cr_assert(is_same(read_policy("error   1"), error_of(1, 1)));
    cr_assert(is_same(read_policy("ratio 8"), ratio_of(8)));
    cr_assert(is_same(read_policy("ratio 1.5"), ratio_of(1.5f)));
    cr_assert(is_same(read_policy("fuse 0.9"), fuse_of(0.9f)));
}

Test(policy, what_is_no_policy_is_refused_and_told) {
    static const char *const none[] = {"", "nonsense", "Exact", "exactly", " exact", "errors 0.1", "ratio=8"};
    static const char *const bad[] = {"exact 1",          "error",          "error 0",         "error 1.5",
                                      "error -0.1",       "error +0.1",     "error nan",       "error inf",
                                      "error 0x1p-3",     "error 0.1 ",     "error 0.1x",      "error 0,1",
                                      "error 1e",         "error .",        "error 1e-60",     "error 1e999",
                                      "error K=0.1",      "error K=0.1,V=", "error K=1,K=1",   "error V=1,V=1",
                                      "error K=1,V=1,",   "error K=1, V=1", "error K=0.1,V=2", "error k=1,v=1",
                                      "error 0.1\t",      "ratio",          "ratio 1.4",       "ratio 65",
                                      "ratio 8 8",        "fuse",           "fuse 0.4",        "fuse 1",
                                      "fuse 0.9999999999"};
    kvf_policy_t policy = ratio_of(7);
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        cr_assert_eq(kvf_policy_read(none[i], &policy, why, sizeof(why)), KVF_ERR_INVALID, "'%s'", none[i]);
        cr_assert(strstr(why, "exact, error, ratio, fuse"), "%s", why);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_eq(kvf_policy_read(bad[i], &policy, why, sizeof(why)), KVF_ERR_INVALID, "'%s'", bad[i]);
        cr_assert(strstr(why, strncmp(bad[i], "exact", 5) ? "needs" : "takes nothing"), "%s", why);
    }
    cr_assert(is_same(policy, ratio_of(7)), "a failure leaves it alone");
    char endless[4096];
    memset(endless, '1', sizeof(endless) - 1);
    endless[sizeof(endless) - 1] = 0;
    memcpy(endless, "error K=", 8);
    cr_assert_eq(kvf_policy_read(endless, &policy, why, sizeof(why)), KVF_ERR_INVALID);
    cr_assert_eq(kvf_policy_read(endless, &policy, NULL, 0), KVF_ERR_INVALID);
}

static void goes_round(kvf_policy_t policy) {
    char text[KVF_POLICY_TEXT_BYTES];
    kvf_policy_t back = read_policy(kvf_policy_print(&policy, text, sizeof(text)));
    cr_assert(is_same(policy, back), "'%s': %s", text, why);
}

Test(policy, what_is_printed_is_short_and_read_as_the_same) {
    char text[KVF_POLICY_TEXT_BYTES];
    cr_assert_str_eq(kvf_policy_print(&(kvf_policy_t){0}, text, sizeof(text)), "exact");
    kvf_policy_t policy = error_of(0.05f, 0.05f);
    cr_assert_str_eq(kvf_policy_print(&policy, text, sizeof(text)), "error 0.05");
    policy = error_of(0.05f, 0.1f);
    cr_assert_str_eq(kvf_policy_print(&policy, text, sizeof(text)), "error K=0.05,V=0.1");
    policy = ratio_of(8);
    cr_assert_str_eq(kvf_policy_print(&policy, text, sizeof(text)), "ratio 8");
    policy = fuse_of(0.9f);
    cr_assert_str_eq(kvf_policy_print(&policy, text, sizeof(text)), "fuse 0.9");
    cr_assert_str_eq(kvf_policy_print(&policy, text, 4), "fus", "what does not fit is cut off");
    goes_round(error_of(1e-45f, 1.17549421e-38f)); /* the longest there are */
    goes_round(error_of(nextafterf(1, 0), 1.23456789e-10f));
    for (float ratio = 1.5f; ratio < 64; ratio = nextafterf(ratio, 64) * 1.0371f) goes_round(ratio_of(ratio));
    for (float tau = 0.5f; tau < 1; tau = nextafterf(tau, 1) * 1.00371f) goes_round(fuse_of(tau));
}

Test(policy, the_programs_locale_does_not_matter) {
    static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    size_t i = 0;
    while (i < sizeof(commas) / sizeof(commas[0]) && !setlocale(LC_ALL, commas[i])) i++;
    if (i == sizeof(commas) / sizeof(commas[0])) cr_skip_test("no locale with a comma is installed");
    kvf_policy_t policy = error_of(0.05f, 0.1f);
    char text[KVF_POLICY_TEXT_BYTES];
    cr_assert_str_eq(kvf_policy_print(&policy, text, sizeof(text)), "error K=0.05,V=0.1");
    goes_round(policy);
}
