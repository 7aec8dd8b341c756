#include "lib/calibration/imported.h"

#include "lib/qmap/copy.h"
#include "lib/qmap/writer.h"

namespace qp {

Hash128 import_statistics(const Store& store, const std::vector<InputSums>& inputs, const Json& described,
                          const Json& provenance, QmapOutput& output) {
  QmapWriter writer(output.fd(), output.label());
  Model model = store.model();
  carry(store, model, writer);
  Calibration c;
  c.options = described;
  c.tokens = writer.append({});
  for (const InputSums& sums : inputs) {
    InputStatistics meta;
    meta.module = sums.module;
    meta.readers = sums.readers;
    std::vector<std::byte> bytes = pack(sums, meta);
    meta.extent = writer.append(bytes);
    c.inputs.push_back(std::move(meta));
  }
  model.provenance.push_back(provenance);
  model.calibration = std::make_shared<const Calibration>(std::move(c));
  store.throw_if_changed();
  return writer.finish(model, output.base(), output.unnamed(), output.sync());
}

}  // namespace qp
