#include <charconv>
#include <filesystem>
#include <limits>

#include "lib/base/error.h"
#include "lib/qmap/manifest.h"

namespace qp {
namespace {

constexpr uint64_t kMaxElements = uint64_t{1} << 56;  // so that no product with bits overflows

enum class At : uint8_t {
  root,
  dom,
  pairs,
  pair,
  extents,
  companion,
  tensors,
  tensor,
  dims,
  parts,
  part,
  extent,
  decode
};

class Sax final : public JsonSax {
 public:
  Sax(Model& model, const std::string& base) : m_(model), base_(base) {}
  std::string problem;

  bool null() override { return dom(Json()); }
  bool boolean(bool v) override { return dom(Json(v)); }
  bool number_integer(number_integer_t v) override {
    return in_dom() ? dom(Json(v)) : fail("a negative number");
  }
  bool number_unsigned(number_unsigned_t v) override { return in_dom() ? dom(Json(v)) : number(v); }
  bool number_float(number_float_t v, const string_t&) override { return dom(Json(v)); }
  bool string(string_t& v) override { return in_dom() ? dom(Json(v)) : text(v); }
  bool binary(binary_t&) override { return fail("binary data"); }
  bool key(string_t& v) override {
    if (in_dom()) {
      dom_keys_.push_back(v);
      return true;
    }
    key_ = v;
    return true;
  }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) override {
    return fail("malformed JSON at byte " + std::to_string(at));
  }

 private:
  bool fail(std::string what) {
    if (problem.empty())
      problem =
          "manifest: " + std::move(what) + (key_.empty() ? "" : " at '" + printable(key_) + "'");
    return false;
  }
  bool in_dom() const { return !at_.empty() && at_.back() == At::dom; }

  // The small free-form sections are kept as JSON values.
  bool dom(Json value) {
    if (!in_dom()) return fail("an unexpected value");
    Json& top = *dom_.back();
    if (top.is_array()) {
      top.push_back(std::move(value));
    } else {
      top[dom_keys_.back()] = std::move(value);
      dom_keys_.pop_back();
    }
    return true;
  }
  bool open_dom(bool object) {
    if (dom_.size() >= kMaxJsonDepth) return fail("nesting too deep");
    Json fresh = object ? Json::object() : Json::array();
    if (dom_.empty()) {
      dom_root_ = std::move(fresh);
      dom_.push_back(&dom_root_);
    } else {
      Json& top = *dom_.back();
      if (top.is_array()) {
        top.push_back(std::move(fresh));
        dom_.push_back(&top.back());
      } else {
        Json& slot = top[dom_keys_.back()];
        dom_keys_.pop_back();
        slot = std::move(fresh);
        dom_.push_back(&slot);
      }
    }
    at_.push_back(At::dom);
    return true;
  }

  bool open(bool object) {
    index_ = 0;
    if (at_.empty()) {
      if (!object) return fail("no object");
      at_.push_back(At::root);
      return true;
    }
    switch (at_.back()) {
      case At::root:
        section_ = key_;
        if (key_ == "tensors") return enter(At::tensors, object, false);
        if (key_ == "files" || key_ == "dropped") return enter(At::pairs, object, false);
        if (key_ == "companions") return enter(At::extents, object, false);
        if (key_ == "provenance" || key_ == "schemes" || key_ == "calibration" ||
            key_ == "kv_cache") {
          return open_dom(object);
        }
        return fail("an unknown section");
      case At::dom: return open_dom(object);
      case At::pairs: return enter(At::pair, object, false);
      case At::extents: m_.companions.emplace_back(); return enter(At::companion, object, false);
      case At::companion:
        extent_ = &m_.companions.back().extent;
        return enter(At::extent, object, false);
      case At::tensors: m_.tensors.emplace_back(); return enter(At::tensor, object, true);
      case At::tensor:
        if (key_ == "shape") {
          dims_ = &m_.tensors.back().shape;
          return enter(At::dims, object, false);
        }
        if (key_ == "parts") return enter(At::parts, object, false);
        return fail("an unexpected list");
      case At::parts:
        m_.tensors.back().parts.emplace_back();
        part().dtype = m_.tensors.back().dtype;
        part().shape = m_.tensors.back().shape;
        return enter(At::part, object, true);
      case At::part:
        if (key_ == "shape") {
          part().shape = Shape();
          dims_ = &part().shape;
          return enter(At::dims, object, false);
        }
        if (key_ == "extent") {
          extent_ = &part().extent;
          return enter(At::extent, object, false);
        }
        if (key_ == "decode") {
          decode_ = Decode();
          layout_args_.clear();
          return enter(At::decode, object, true);
        }
        return fail("an unexpected list");
      case At::decode:
        if (key_ != "strides" && key_ != "layout_args") return fail("an unexpected list");
        list_ = key_ == "strides" ? &decode_.strides : &layout_args_;
        dims_ = nullptr;
        return enter(At::dims, object, false);
      case At::pair:
      case At::dims:
      case At::extent: break;
    }
    return fail("an unexpected list");
  }
  bool enter(At next, bool object, bool wants_object) {
    if (object != wants_object) return fail("an object and a list mistaken for each other");
    at_.push_back(next);
    return true;
  }

  bool close() {
    At was = at_.back();
    at_.pop_back();
    if (was == At::dom) {
      dom_.pop_back();
      if (dom_.empty()) return finish_dom();
    } else if (was == At::decode) {
      if (!finish_layout()) return fail("a layout without fitting arguments");
      // Neighbouring tensors mostly share one decode; keep one copy.
      if (!last_decode_ || !(*last_decode_ == decode_)) {
        last_decode_ = std::make_shared<const Decode>(decode_);
      }
      part().decode = last_decode_;
    } else if (was == At::pair && index_ != 2) {
      return fail("a pair that is none");
    } else if (was == At::extent && index_ < 3) {
      return fail("an extent that is too short");
    } else if (was == At::extent && !at_.empty() && at_.back() == At::companion) {
      index_ = 2;
    }
    return true;
  }
  bool finish_layout() {
    if (decode_.layout == nullptr) return layout_args_.empty();
    const auto& v = layout_args_;
    auto width = [](uint64_t bits) { return bits >= 1 && bits <= 32; };
    if (v.size() != 6 || !width(v[2]) || !width(v[3]) || v[4] > 255 || v[5] > 1) return false;
    if (v[0] > kMaxElements || v[1] > kMaxElements) return false;
    decode_.layout_args = {v[0], v[1],     static_cast<int>(v[2]), static_cast<int>(v[3]),
                           v[4], v[5] == 1};
    return true;
  }
  bool finish_dom() {
    if (section_ == "provenance") {
      m_.provenance = std::move(dom_root_);
      return true;
    }
    try {
      if (section_ == "calibration") {
        m_.calibration = std::make_shared<const Calibration>(calibration_from_json(dom_root_));
        return true;
      }
      if (section_ == "kv_cache") {
        m_.kv_cache = quant_args_from_json(dom_root_);
        return true;
      }
      for (const Json& s : dom_root_) m_.schemes.push_back(scheme_from_json(s));
    } catch (const Error& e) {
      return fail(e.reason());
    } catch (const nlohmann::json::exception&) {
      return fail("a section that is none");
    }
    return true;
  }

  Part& part() { return m_.tensors.back().parts.back(); }

  bool number(uint64_t v) {
    switch (at_.empty() ? At::dom : at_.back()) {
      case At::root: return key_ == "qmap" ? true : fail("an unexpected number");
      case At::pair:
        if (section_ != "files" || index_++ != 1) return fail("a pair that is none");
        m_.files.back().size = v;
        return true;
      case At::tensor:
        if (key_ == "dequantize" && v == 1) {
          m_.tensors.back().dequantize = true;
          return true;
        }
        if (key_ == "transposed" && v == 1) {
          m_.tensors.back().transposed = true;
          return true;
        }
        if (key_ != "scheme" || v > std::numeric_limits<int32_t>::max()) {
          return fail("an unexpected number");
        }
        m_.tensors.back().scheme = static_cast<int32_t>(v);
        return true;
      case At::dims:
        if (dims_ == nullptr) {
          if (list_->size() >= Shape::kMaxRank) return fail("too many dimensions");
          list_->push_back(v);
          return true;
        }
        return dims_->push(v) ? true : fail("too many dimensions");
      case At::extent:
        switch (index_++) {
          case 0:
            if (v >= kBlob) return fail("a file number out of range");
            extent_->file = static_cast<uint32_t>(v);
            return true;
          case 1: extent_->offset = v; return true;
          case 2: extent_->length = v; return true;
          default: return fail("an extent that is none");
        }
      case At::decode: return decode_number(v);
      default: return fail("an unexpected number");
    }
  }
  bool decode_number(uint64_t v) {
    if (key_ == "stored_row_bytes" || key_ == "begin" || key_ == "whole") {
      (key_ == "begin" ? decode_.begin : key_ == "whole" ? decode_.whole : decode_.stored_row_bytes) = v;
      return true;
    }
    if (v > 1 << 20) return fail("a number out of range");
    if (key_ == "ggml_type") {
      decode_.ggml_type = static_cast<int32_t>(v);
    } else if (key_ == "unpermute_heads") {
      decode_.unpermute_heads = static_cast<uint32_t>(v);
    } else {
      return fail("an unknown key");
    }
    return true;
  }

  bool dtype(const std::string& v, DType& out) {
    auto d = dtype_from_name(v);
    if (!d) return fail("an unknown dtype");
    out = *d;
    return true;
  }

  bool text(std::string& v) {
    switch (at_.empty() ? At::dom : at_.back()) {
      case At::root:
        if (key_ == "format") {
          m_.format = v;
        } else if (key_ == "architecture") {
          m_.architecture = v;
        } else {
          return fail("an unknown key");
        }
        return true;
      case At::pair: return pair_text(v);
      case At::companion:
        if (index_ != 0) return fail("a companion that is none");
        m_.companions.back().name = v;
        return true;
      case At::tensor:
        if (key_ == "name") {
          m_.tensors.back().name = v;
        } else if (key_ == "dtype") {
          return dtype(v, m_.tensors.back().dtype);
        } else if (key_ == "ggml") {
          m_.tensors.back().ggml = v;
        } else if (key_ == "source") {
          m_.tensors.back().source = v;
        } else {
          return fail("an unknown key");
        }
        return true;
      case At::part:
        if (key_ == "dtype") return dtype(v, part().dtype);
        if (key_ == "role") {
          auto role = role_from_name(v);
          if (!role) return fail("an unknown role");
          part().role = *role;
          return true;
        }
        return fail("an unknown key");
      case At::decode:
        if (key_ == "layout") {
          decode_.layout = find_layout(v);
          return decode_.layout != nullptr ? true : fail("an unknown layout");
        }
        return key_ == "stored" ? dtype(v, decode_.stored) : fail("an unknown key");
      case At::extent: return extent_text(v);
      default: return fail("an unexpected string");
    }
  }
  bool pair_text(const std::string& v) {
    if (section_ == "files") {
      if (index_++ != 0) return fail("a file that is none");
      m_.files.push_back({std::filesystem::path(base_) / v, 0, 0});
      return true;
    }
    if (index_ == 0) m_.dropped.emplace_back(v, "");
    if (index_ == 1) m_.dropped.back().second = v;
    ++index_;
    return true;
  }
  bool extent_text(const std::string& v) {
    if (index_ < 3) return fail("an extent that is none");
    ++index_;
    if (v == "zstd") {
      extent_->zstd = true;
      return true;
    }
    uint64_t hash = 0;
    auto [end, ec] = std::from_chars(v.data(), v.data() + v.size(), hash, 16);
    if (ec != std::errc() || end != v.data() + v.size() || v.size() != 16) {
      return fail("a checksum that is none");
    }
    extent_->xxh3 = hash;
    return true;
  }

  Model& m_;
  const std::string& base_;
  std::vector<At> at_;
  std::string key_, section_;
  size_t index_ = 0;  // position in the innermost list
  Shape* dims_ = nullptr;
  std::vector<uint64_t>* list_ = nullptr;  // where numbers go when it is no shape
  std::vector<uint64_t> layout_args_;      // rows, cols, bits, stored_bits, bias, is_signed
  Extent* extent_ = nullptr;
  Decode decode_;
  std::shared_ptr<const Decode> last_decode_;
  Json dom_root_;
  std::vector<Json*> dom_;
  std::vector<std::string> dom_keys_;
};

}  // namespace

Model read_manifest(std::span<const std::byte> text, const std::string& path,
                    const std::string& base) {
  Model model;
  Sax sax(model, base);
  if (!parse_json_sax(text, sax)) {
    throw input_error(sax.problem.empty() ? "manifest: malformed JSON" : sax.problem)
        .file(path)
        .hint("the qmap is damaged or was not written by qpipe");
  }
  return model;
}

}  // namespace qp
