// Pipelines made by hand: folders in, folders out, and what is wrong with them.
#include "formats/diffusers.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

#include "formats/hf/folders.h"
#include "formats/verify/structure.h"
#include "lib/model/modules.h"
#include "tests/unit/support/family.h"

namespace qp {
namespace {

namespace fs = std::filesystem;

using Files = std::map<std::string, std::string>;

Files files_of(const std::string& directory) {
  Files out;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file())
      continue;
    std::ifstream in(entry.path(), std::ios::binary);
    out[fs::relative(entry.path(), directory)] = {std::istreambuf_iterator<char>(in), {}};
  }
  return out;
}

// A Flux of one block beside a VAE and a scheduler.
struct TinyPipeline {
  TempDir dir;
  Json index = {{"_class_name", "FluxPipeline"},
                {"_diffusers_version", "0.42.1"},
                {"is_distilled", true},
                {"image_encoder", {nullptr, nullptr}},
                {"scheduler", {"diffusers", "FlowMatchEulerDiscreteScheduler"}},
                {"transformer", {"diffusers", "FluxTransformer2DModel"}},
                {"vae", {"diffusers", "AutoencoderKL"}}};
  Json config = {{"_class_name", "FluxTransformer2DModel"}, {"num_layers", 1}};
  std::vector<TestTensor> tensors = {
      bf16_tensor("proj_out.bias", {4}),
      bf16_tensor("proj_out.weight", {4, 8}),
      bf16_tensor("transformer_blocks.0.attn.to_q.weight", {8, 8}),
      bf16_tensor("transformer_blocks.0.norm1.linear.weight", {16, 8}),
      bf16_tensor("x_embedder.weight", {8, 4}),
  };

  TinyPipeline() {
    write("scheduler/scheduler_config.json", "{}");
    write("vae/config.json", R"({"_class_name": "AutoencoderKL"})");
    add_folder_of("vae");
    write_safetensors(dir / "vae/diffusion_pytorch_model.safetensors",
                      {bf16_tensor("w.weight", {4, 4})});
    write_index();
    write_transformer("transformer");
  }
  void add_folder_of(const std::string& name) const { fs::create_directories(dir / name); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(dir / name).parent_path());
    dir.write(name, text);
  }
  void write_index() const { write("model_index.json", index.dump(2) + "\n"); }
  void write_transformer(const std::string& folder) const {
    write(folder + "/config.json", config.dump(2) + "\n");
    write_safetensors(dir / (folder + "/diffusion_pytorch_model.safetensors"), tensors);
  }
  // Wan's second transformer, in two shards.
  void add_second() {
    index["transformer_2"] = {"diffusers", "FluxTransformer2DModel"};
    write_index();
    write("transformer_2/config.json", config.dump(2) + "\n");
    std::string first = "diffusion_pytorch_model-00001-of-00002.safetensors",
                second = "diffusion_pytorch_model-00002-of-00002.safetensors";
    write_safetensors(dir / ("transformer_2/" + first), {tensors[0], tensors[1]});
    write_safetensors(dir / ("transformer_2/" + second), {tensors.begin() + 2, tensors.end()});
    Json map;
    size_t total = 0;
    for (size_t i = 0; i < tensors.size(); ++i) {
      map[tensors[i].name] = i < 2 ? first : second;
      total += tensors[i].bytes.size();
    }
    write("transformer_2/diffusion_pytorch_model.safetensors.index.json",
          Json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump());
  }
  // to_q as FP8: 0x38 is 1.0, 0xc4 -3.0, 0x01 2^-9; one scale.
  void quantize_fp8() {
    std::string codes(64, '\x38');
    codes[1] = '\xc4';
    codes[63] = '\x01';
    std::erase_if(tensors, [](const TestTensor& t) { return t.name.ends_with("to_q.weight"); });
    tensors.push_back({"transformer_blocks.0.attn.to_q.weight", DType::f8_e4m3, {8, 8}, codes});
    tensors.push_back(f32_tensor("transformer_blocks.0.attn.to_q.weight_scale", {1}, {0.5f}));
    config["quantization_config"] = {
        {"quant_method", "fp8"},
        {"activation_scheme", "dynamic"},
        {"modules_to_not_convert",
         {"proj_out", "transformer_blocks.0.norm1.linear", "x_embedder"}}};
    write_transformer("transformer");
  }

  std::unique_ptr<Store> open() const { return open_model(dir.path()); }
  // "3: message", "" when it loads.
  std::string refusal() const {
    try {
      open();
    } catch (const Error& e) {
      return std::to_string(e.exit_code()) + ": " + e.what();
    }
    return "";
  }
};

// The files that exporting gives, or "5: message" under "".
Files written(const Store& store, const std::string& format, uint64_t shard_bytes = 5'000'000'000) {
  TempDir dir;
  try {
    ExportPlan plan = plan_export(*find_format(format), store, {});
    Progress progress;
    WriteOptions options;
    options.directory = dir / "out";
    options.shard_bytes = shard_bytes;
    options.sync = false;
    write_checkpoint(store, plan, options, progress);
  } catch (const Error& e) {
    return {{"", std::to_string(e.exit_code()) + ": " + e.what()}};
  }
  return files_of(dir / "out");
}

std::map<std::string, std::string> kinds_of(const Store& store) {
  std::map<std::string, std::string> out;
  for (const Tensor& t : store.model().tensors) {
    out[t.name] = name_of(classify(t.name, t.dtype, t.shape, store.model().config).kind);
  }
  return out;
}

TEST(Diffusers, TransformersAreReadAndTheRestIsCarried) {
  TinyPipeline p;
  p.add_second();
  p.write("flux1-dev.safetensors", "the original weights, which nobody asked for");
  auto store = p.open();
  const Model& m = store->model();
  EXPECT_EQ(m.format, "diffusers");
  EXPECT_EQ(m.architecture, "FluxPipeline");
  std::map<std::string, std::string> want;
  for (std::string folder : {"transformer/", "transformer_2/"}) {
    want[folder + "proj_out.bias"] = "Bias";
    want[folder + "proj_out.weight"] = "Conditioning";
    want[folder + "transformer_blocks.0.attn.to_q.weight"] = "Linear";
    want[folder + "transformer_blocks.0.norm1.linear.weight"] = "Conditioning";
    want[folder + "x_embedder.weight"] = "Conditioning";
  }
  EXPECT_EQ(kinds_of(*store), want);
  std::set<std::string> companions;
  for (const Companion& c : m.companions) companions.insert(c.name);
  EXPECT_EQ(companions,
            (std::set<std::string>{"model_index.json", "scheduler/scheduler_config.json",
                                   "transformer/config.json", "transformer_2/config.json",
                                   "vae/config.json", "vae/diffusion_pytorch_model.safetensors"}));
  EXPECT_TRUE(std::ranges::any_of(
      m.dropped, [](const auto& d) { return d.first == "flux1-dev.safetensors"; }));
  EXPECT_EQ(values_of(*store, "transformer_2/x_embedder.weight"),
            values_of(*store, "transformer/x_embedder.weight"));
}

TEST(Diffusers, WhatIsALinearOfABlock) {
  Json config = {{"_class_name", "X"}};
  auto kind = [&](std::string name) {
    return name_of(classify(name + ".weight", DType::bf16, Shape{8, 8}, config).kind);
  };
  // Flux, SD3; Wan; Qwen-Image; Z-Image, Lumina; HunyuanVideo; HiDream.
  for (const char* name :
       {"transformer_blocks.0.attn.to_q", "transformer_blocks.3.ff.net.0.proj",
        "transformer_blocks.3.ff_context.net.2", "single_transformer_blocks.12.proj_out",
        "single_transformer_blocks.12.proj_mlp", "blocks.0.attn1.to_out.0",
        "blocks.0.attn2.add_k_proj", "blocks.0.ffn.net.0.proj",
        "transformer_blocks.0.img_mlp.net.2", "layers.4.attention.to_q", "layers.4.feed_forward.w1",
        "noise_refiner.0.feed_forward.w2"}) {
    EXPECT_EQ(kind(name), "Linear") << name;
  }
  for (const char* name :
       {"x_embedder", "context_embedder", "proj_out", "norm_out.linear",
        "time_text_embed.timestep_embedder.linear_1", "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear", "single_transformer_blocks.0.norm.linear",
        "condition_embedder.time_proj", "condition_embedder.image_embedder.ff.net.0.proj",
        "transformer_blocks.0.img_mod.1", "img_in", "txt_in",
        "down_blocks.0.resnets.1.time_emb_proj", "layers.4.adaLN_modulation.0", "cap_embedder.1",
        "all_x_embedder.2-1", "double_stream_modulation_img.linear",
        "context_embedder.token_refiner.refiner_blocks.0.attn.to_q"}) {
    EXPECT_EQ(kind(name), "Conditioning") << name;
  }
  EXPECT_EQ(kind("double_stream_blocks.0.block.ff_i.experts.0.w1"), "Expert");
  EXPECT_EQ(kind("double_stream_blocks.0.block.ff_i.gate"), "Router");
  EXPECT_EQ(
      name_of(classify("patch_embedding.weight", DType::bf16, Shape{8, 4, 1, 2, 2}, config).kind),
      "Conv");
  EXPECT_EQ(
      name_of(classify("blocks.0.scale_shift_table", DType::bf16, Shape{1, 6, 8}, config).kind),
      "Other");
}

TEST(Diffusers, UnquantizedComesOutByteForByte) {
  TinyPipeline p;
  auto store = p.open();
  Files want = files_of(p.dir.path());
  EXPECT_EQ(want.size(), 6u);
  EXPECT_EQ(written(*store, "diffusers"), want);
  EXPECT_EQ(written(*store, "safetensors"), want);
}

TEST(Diffusers, ShardsAndIndexStayInTheirFolder) {
  TinyPipeline p;
  p.add_second();
  auto store = p.open();
  Files out = written(*store, "diffusers", 300);
  for (std::string folder : {"transformer/", "transformer_2/"}) {
    Json index =
        parse_json(out[folder + "diffusion_pytorch_model.safetensors.index.json"], "index");
    EXPECT_EQ(index["metadata"]["total_size"], 8 + 64 + 128 + 256 + 64);
    EXPECT_EQ(index["weight_map"]["x_embedder.weight"],
              "diffusion_pytorch_model-00003-of-00003.safetensors");
    for (int i = 1; i <= 3; ++i) {
      EXPECT_TRUE(out.contains(folder + "diffusion_pytorch_model-0000" + std::to_string(i) +
                               "-of-00003.safetensors"));
    }
    EXPECT_FALSE(out.contains(folder + "diffusion_pytorch_model.safetensors"));
  }
  EXPECT_EQ(out["vae/diffusion_pytorch_model.safetensors"],
            files_of(p.dir.path())["vae/diffusion_pytorch_model.safetensors"]);
}

TEST(Diffusers, QuantizedTransformerLoadsAsItIs) {
  TinyPipeline p;
  p.quantize_fp8();
  p.add_second();  // sharded, and quantized alike
  auto store = p.open();
  Values want(64, 0.5f);
  want[1] = -1.5f;
  want[63] = 0x1p-10f;
  EXPECT_EQ(values_of(*store, "transformer/transformer_blocks.0.attn.to_q.weight"), want);
  ASSERT_EQ(store->model().schemes.size(), 1u);
  Files out = written(*store, "diffusers");
  ASSERT_FALSE(out.contains("")) << out[""];
  EXPECT_EQ(out["transformer/diffusion_pytorch_model.safetensors"].size(),
            files_of(p.dir.path())["transformer/diffusion_pytorch_model.safetensors"].size());
  Json config = parse_json(out["transformer/config.json"], "config");
  EXPECT_EQ(config["quantization_config"]["quant_method"], "fp8");
  EXPECT_EQ(config["quantization_config"]["modules_to_not_convert"],
            (Json{"proj_out", "transformer_blocks.0.norm1.linear", "x_embedder"}));  // no lm_head
  EXPECT_EQ(config["_class_name"], "FluxTransformer2DModel");
  EXPECT_EQ(out["model_index.json"], p.index.dump(2) + "\n");
}

TEST(Diffusers, FamiliesWriteTheirFilesIntoTheFolder) {
  TinyPipeline p;
  p.quantize_fp8();
  auto store = p.open();
  Files out = written(*store, "compressed-tensors");
  ASSERT_FALSE(out.contains("")) << out[""];
  EXPECT_EQ(out.size(), 6u);
  EXPECT_TRUE(contains(out["transformer/config.json"], "float-quantized"));
  EXPECT_FALSE(contains(out["transformer/config.json"], "lm_head"));
  EXPECT_EQ(written(*store, "gptq")[""].substr(0, 3), "5: ");
  EXPECT_TRUE(
      contains(written(*store, "gptq")[""], "transformer/transformer_blocks.0.attn.to_q.weight"));
}

TEST(Diffusers, ModelSlimIsAFileOfTheFolder) {
  TinyPipeline p;
  std::erase_if(p.tensors, [](const TestTensor& t) { return t.name.ends_with("to_q.weight"); });
  std::string q = "transformer_blocks.0.attn.to_q.weight", codes(64, '\x02');
  codes[0] = '\x80';  // -128
  p.tensors.push_back({q, DType::i8, {8, 8}, codes});
  p.tensors.push_back(f32_tensor(q + "_scale", {8, 1}, Values(8, 0.25f)));
  p.tensors.push_back(f32_tensor(q + "_offset", {8, 1}, Values(8, 0.0f)));
  Json description;
  for (const TestTensor& t : p.tensors)
    description[t.name] = t.name.starts_with(q) ? "W8A8_DYNAMIC" : "FLOAT";
  p.write_transformer("transformer");
  p.write("transformer/quant_model_description.json", description.dump());
  auto store = p.open();
  Values want(64, 0.5f);
  want[0] = -32;
  EXPECT_EQ(values_of(*store, "transformer/" + q), want);
  Files out = written(*store, "diffusers");
  ASSERT_FALSE(out.contains("")) << out[""];
  Json found = parse_json(out["transformer/quant_model_description.json"], "description");
  for (const auto& [name, label] : description.items()) EXPECT_EQ(found[name], label) << name;
  EXPECT_TRUE(out.contains("transformer/diffusion_pytorch_model.safetensors"));
  EXPECT_FALSE(
      parse_json(out["transformer/config.json"], "config").contains("quantization_config"));
}

TEST(Diffusers, OneComponentAlone) {
  TinyPipeline p;
  auto store = open_model(p.dir / "transformer");
  EXPECT_EQ(kinds_of(*store)["x_embedder.weight"], "Conditioning");
  Files out = written(*store, "diffusers"), want = files_of(p.dir / "transformer");
  EXPECT_EQ(out, want);
}

TEST(Diffusers, VariantsAreNotLoadedTwice) {
  TinyPipeline p;
  write_safetensors(p.dir / "transformer/diffusion_pytorch_model.fp16.safetensors", p.tensors);
  auto store = p.open();
  EXPECT_EQ(store->model().tensors.size(), p.tensors.size());
  fs::remove(p.dir / "transformer/diffusion_pytorch_model.safetensors");
  EXPECT_EQ(p.open()->model().tensors.size(), p.tensors.size());
}

TEST(Diffusers, AnotherModelIsNone) {
  TempDir dir;
  TinyLlama().write(dir);
  EXPECT_TRUE(contains(written(*open_model(dir.path()), "diffusers")[""], "2: ")) << "usage";
}

// ---- bad input

TEST(DiffusersBad, Index) {
  TinyPipeline p;
  for (const char* text : {"[]", "7", "null"}) {
    p.write("model_index.json", text);
    EXPECT_TRUE(contains(p.refusal(), "3: ") && contains(p.refusal(), "is no JSON object"))
        << p.refusal();
  }
  p.write("model_index.json", "{\"transformer\": [");
  EXPECT_TRUE(contains(p.refusal(), "3: ") && contains(p.refusal(), "model_index.json"))
      << p.refusal();
  for (const char* name :
       {"transformer/../../etc", "../transformer", "/transformer", "..", "", ".git", "a\\b"}) {
    TinyPipeline other;
    other.index[name] = {"diffusers", "X"};
    other.write_index();
    EXPECT_TRUE(contains(other.refusal(), "3: ") &&
                contains(other.refusal(), "leaves the directory"))
        << name << other.refusal();
  }
  TinyPipeline unet;
  unet.index.erase("transformer");
  unet.write_index();
  EXPECT_TRUE(contains(unet.refusal(), "3: ") && contains(unet.refusal(), "names no transformer"))
      << unet.refusal();
}

TEST(DiffusersBad, Folder) {
  TinyPipeline p;
  p.index["transformer_2"] = {"diffusers", "X"};
  p.write_index();
  EXPECT_TRUE(contains(p.refusal(), "3: ") &&
              contains(p.refusal(), "transformer_2: is named by model_index.json"))
      << p.refusal();
  p.write("transformer_2/diffusion_pytorch_model.safetensors", "");
  EXPECT_TRUE(contains(p.refusal(), "3: ") && contains(p.refusal(), "has no config.json"))
      << p.refusal();
  p.write("transformer_2/config.json", "{}");
  EXPECT_TRUE(contains(p.refusal(), "3: ")) << p.refusal();
  write_safetensors(p.dir / "transformer_2/diffusion_pytorch_model.safetensors", p.tensors);
  EXPECT_TRUE(contains(p.refusal(), "_class_name")) << p.refusal();
  p.write("transformer_2/config.json", p.config.dump());
  EXPECT_EQ(p.refusal(), "");
  p.write("transformer_2/model_index.json", "{}");
  EXPECT_TRUE(contains(p.refusal(), "pipeline inside a pipeline")) << p.refusal();
}

// A folder that is a link may be anywhere.
TEST(DiffusersBad, LinkedFolder) {
  TinyPipeline p;
  TempDir elsewhere;
  fs::rename(p.dir / "transformer", elsewhere / "transformer");
  fs::create_directory_symlink(elsewhere / "transformer", p.dir / "transformer");
  EXPECT_TRUE(contains(p.refusal(), "3: ")) << p.refusal();
}

TEST(DiffusersBad, Weights) {
  TinyPipeline p;
  p.add_second();
  Json map = {{"x_embedder.weight", "../vae/diffusion_pytorch_model.safetensors"}};
  p.write("transformer_2/diffusion_pytorch_model.safetensors.index.json",
          Json{{"weight_map", map}}.dump());
  EXPECT_TRUE(contains(p.refusal(), "3: ") && contains(p.refusal(), "leaves the directory"))
      << p.refusal();
  map["x_embedder.weight"] = "diffusion_pytorch_model-00003-of-00003.safetensors";
  p.write("transformer_2/diffusion_pytorch_model.safetensors.index.json",
          Json{{"weight_map", map}}.dump());
  EXPECT_TRUE(contains(p.refusal(), "3: ") && contains(p.refusal(), "is missing")) << p.refusal();

  TinyPipeline slash;
  slash.tensors.push_back(bf16_tensor("a/b.weight", {2, 2}));
  slash.write_transformer("transformer");
  EXPECT_TRUE(contains(slash.refusal(), "3: ") && contains(slash.refusal(), "a/b.weight"))
      << slash.refusal();

  TinyPipeline shape;
  shape.quantize_fp8();
  shape.tensors.back() = f32_tensor("transformer_blocks.0.attn.to_q.weight_scale", {3}, {1, 1, 1});
  shape.write_transformer("transformer");
  EXPECT_TRUE(contains(shape.refusal(), "3: ") && contains(shape.refusal(), "to_q"))
      << shape.refusal();
}

// ---- qverify

std::vector<std::string> rules_of(const TinyPipeline& p) {
  std::vector<std::string> out;
  for (const Finding& f : check_directory(p.dir.path()).findings)
    out.push_back(f.rule + " " + f.what);
  return out;
}

TEST(DiffusersCheck, SoundOnesHaveNoFindings) {
  TinyPipeline p;
  p.quantize_fp8();
  p.add_second();
  EXPECT_EQ(rules_of(p), std::vector<std::string>());
}

TEST(DiffusersCheck, ComponentsAndIndexes) {
  TinyPipeline p;
  p.add_second();
  p.index["text_encoder"] = {"transformers", "T5EncoderModel"};
  p.write_index();
  fs::remove(p.dir / "transformer_2/diffusion_pytorch_model-00001-of-00002.safetensors");
  p.write("vae/config.json", "{");
  std::vector<std::string> found = rules_of(p);
  ASSERT_EQ(found.size(), 3u);
  auto has = [&](const std::string& start) {
    return std::ranges::any_of(found, [&](const std::string& f) { return f.starts_with(start); });
  };
  EXPECT_TRUE(has("pipeline model_index.json names text_encoder"));
  EXPECT_TRUE(has("missing-shard transformer_2: "));
  EXPECT_TRUE(has("config vae: "));
}

TEST(DiffusersCheck, QuantizedAgainstItsConfig) {
  TinyPipeline p;
  p.quantize_fp8();
  p.config["quantization_config"]["modules_to_not_convert"].push_back(
      "transformer_blocks.0.attn.to_q");
  p.write_transformer("transformer");
  std::vector<Finding> found = check_directory(p.dir.path()).findings;
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rule, "ignored-quantized");
  EXPECT_TRUE(found[0].tensor.starts_with("transformer/transformer_blocks.0.attn.to_q."))
      << found[0].tensor;
}

}  // namespace
}  // namespace qp
