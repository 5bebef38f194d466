#include "fusion/why.h"

#include <stdarg.h>
#include <stdio.h>

__attribute__((format(printf, 4, 5))) kvf_status_t kvf__fail_why(kvf_status_t status, char *why, size_t why_bytes,
                                                                 const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (why_bytes) vsnprintf(why, why_bytes, format, args);
    va_end(args);
    return status;
}
