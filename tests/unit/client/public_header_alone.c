/* Sees the public header and nothing else of ours. */
#include "client/include/kvfuse.h"

#include "public_header_shape.h"

#include <string.h>

const size_t public_layout_shape[] = KVF_LAYOUT_SHAPE;
const size_t public_layout_shape_count = sizeof(public_layout_shape) / sizeof(public_layout_shape[0]);

bool public_defaults_are_as_documented(void) {
    kvf_client_options_t options;
    memset(&options, 0xff, sizeof(options));
    kvf_client_options_init(&options);
    return !strcmp(options.address, "127.0.0.1:7311") && options.transport == KVF_TRANSPORT_AUTO &&
           options.progress == KVF_PROGRESS_THREAD && !options.busy_poll && !options.skip_verify &&
           options.connect_timeout_ms == 5000 && options.request_timeout_ms == 10000 && options.ping_ms == 2000 &&
           options.bounce_bytes == 32 << 20 && !options.name;
}
