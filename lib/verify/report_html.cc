#include "lib/verify/report.h"
namespace qp { std::string report_html(const VerifyReport&) { return ""; } }
