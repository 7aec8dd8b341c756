// The charts of the HTML report: inline SVG, colours by CSS variables of the page, no script.
#pragma once

#include <string>

#include "lib/verify/report.h"

namespace qp {

// One line per kind of module, its worst SQNR in each layer; "" when nothing in layers was compared.
std::string chart_layers(const VerifyReport& report);
// How often each code occurs, in the order of the numbers they stand for.
std::string chart_codes(const CodeHistogram& histogram);
// Bytes before and after; "" without a base.
std::string chart_sizes(const VerifyReport& report);

// Of the evaluation, "" where it has nothing to show: relative error of the hidden states after each
// layer; tokens by their KL divergence; mean KL divergence by position in the window.
std::string chart_hidden_states(const EvalResult& result);
std::string chart_kl_histogram(const EvalResult& result);
std::string chart_kl_positions(const EvalResult& result);

}  // namespace qp
