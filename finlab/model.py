"""Models: choose the attention, load, lengthen the context, describe, grow the vocabulary, merge LoRA."""

from __future__ import annotations

import copy
import functools
import json
import os
from pathlib import Path


def attention(dtype: str = "float32") -> str:
    """Return the attention for this machine: flash-attn where it imports on CUDA and takes the dtype, else PyTorch's SDPA."""
    import torch

    if not torch.cuda.is_available() or dtype not in ("bfloat16", "float16"):
        return "sdpa"
    try:
        import flash_attn  # noqa: F401
    except ImportError:
        return "sdpa"
    return "flash_attention_2"


def packed_attention(network: object, device: str = "") -> str:
    """Return the attention that packed rows are trained with on a type of device (by default the model's): its own, or `varlen` for SDPA in 16 bits on CUDA.

    SDPA keeps documents apart with a mask that is quadratic in the row; PyTorch's `varlen_attn` (2.10 and later) takes the documents' bounds
    instead, as flash-attn does. It knows no sliding windows, so models that use them keep SDPA.
    """
    config, chosen = network.config, network.config._attn_implementation
    special = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True) or getattr(config, "attn_logit_softcapping", None)
    if chosen != "sdpa" or (device or network.device.type) != "cuda" or network.dtype.itemsize != 2 or special:
        return chosen
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401
    except ImportError:
        return chosen
    return register_varlen()


def register_varlen() -> str:
    """Make PyTorch's variable-length attention known to transformers as `varlen`, and return that name.

    It takes one joined row (1, heads, tokens, width) and its documents' bounds `cu_seq_lens_q`; each document attends causally to itself alone.
    """
    from torch.nn.attention import varlen
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    def forward(module, query, key, value, attention_mask, cu_seq_lens_q=None, max_length_q=None, scaling=None, **rest):
        if cu_seq_lens_q is None:
            raise ValueError("varlen attention needs packed rows with their documents' bounds: for anything else use sdpa")
        joined = [part[0].transpose(0, 1).contiguous() for part in (query, key, value)]
        out = varlen.varlen_attn(*joined, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, window_size=(-1, 0),
                                 enable_gqa=query.shape[1] != key.shape[1])
        return out[None], None

    AttentionInterface.register("varlen", forward)
    AttentionMaskInterface.register("varlen", flash_attention_mask)
    return "varlen"


def longer(source: str | Path, context: int = 0, rope_type: str = "", rope_base: float = 0.0) -> object:
    """Return the config of the model at `source` with a longer context: give it to `load` as `config`.

    `context` in tokens (0 keeps it). `rope_base` replaces the base of the rotary frequencies (0 keeps it; raising it slows them). `rope_type`
    is a scaling of transformers: `linear` (position interpolation, Chen et al. 2023) or `yarn` (Peng et al. 2023); its factor is the
    new context over the first one, so that a second lengthening goes on from the first. XuanYuan-70B went to 8k and 16k within pretraining.
    Raises ValueError for another type (here or in the model), a shorter context, and for scaling without a longer one.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(source))
    old = config.max_position_embeddings
    if context and context < old:
        raise ValueError(f"the context of {source} is {old:,} tokens: {context:,} would shorten it; set context to 0 to keep it")
    if rope_type not in ("", "linear", "yarn"):
        raise ValueError(f"rope_type can be linear, yarn or empty, not '{rope_type}'")
    if rope_type and context <= old:
        raise ValueError(f"rope_type {rope_type} stretches positions to a longer context: set context above {old:,}")
    parameters = dict(config.rope_parameters)
    if rope_type and parameters.get("rope_type", "default") not in ("default", "linear", "yarn"):
        raise ValueError(f"the positions of {source} are scaled by {parameters['rope_type']} already: set rope_type to empty, or raise rope_base instead")
    if rope_base:
        parameters["rope_theta"] = rope_base
    if rope_type:
        first = parameters.get("original_max_position_embeddings") or round(old / parameters.get("factor", 1))
        parameters |= {"rope_type": rope_type, "factor": context / first, "original_max_position_embeddings": first}
    config.rope_parameters, config.max_position_embeddings = parameters, context or old
    return config


def load(source: str | Path, dtype: str = "float32", place: bool = True, **settings: object) -> object:
    """Load a causal language model from a folder or a hub id with this machine's attention.

    A folder that holds an adapter is loaded as its base with the adapter on it. `settings` go to `from_pretrained` (config,
    quantization_config, device_map, ...). Without a device_map the model goes to the GPU where there is one, unless `place` is false.
    Raises ValueError when there is no model at `source`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if (Path(source) / "adapter_config.json").exists():
        record = json.loads((Path(source) / "base.json").read_text(encoding="utf-8")) if (Path(source) / "base.json").exists() else {}
        base = (Path(source) / record.get("base", "nowhere")).resolve()
        if not base.is_dir():
            raise ValueError(f"the adapter {source} does not say where its base is (base.json): load the base, then model.attach(base, adapter)")
        return attach(load(base, dtype, place, **settings), Path(source)).eval()
    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        raise ValueError(f"no model at '{source}': the folder holds no config.json")
    try:
        stays = not place or settings.get("device_map") == "cpu"  # flash-attn runs on a GPU only
        settings.setdefault("attn_implementation", "sdpa" if stays else attention(dtype))
        model = AutoModelForCausalLM.from_pretrained(str(source), dtype=getattr(torch, dtype), **settings)
    except OSError as error:
        raise ValueError(f"no model at '{source}': give a folder with config.json and weights, or a hub id you can reach "
                         f"({str(error).strip().splitlines()[0][:150]})") from None
    if place and torch.cuda.is_available() and "device_map" not in settings:
        model = model.to("cuda")
    for module in model.modules():  # bitsandbytes' packed CPU kernel stops at other widths; its plain path takes them
        if getattr(module, "support_avx512bf16_for_cpu", False) and (module.out_features % 32 or module.in_features % 64):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def describe(source: str | Path, sample: list[str]) -> dict:
    """Return one row of the comparison of candidate bases, as in Golden-GPT's table: no weights are loaded.

    Keys: base, architecture, layers, parameters, vocabulary, context (tokens), chars per token on `sample`, context in characters.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from finlab import tokenizer

    config = AutoConfig.from_pretrained(str(source))
    with torch.device("meta"):
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    density = tokenizer.chars_per_token(tokenizer.load(source), sample)
    context = config.max_position_embeddings
    return {"base": Path(source).name, "architecture": config.architectures[0] if config.architectures else config.model_type,
            "layers": config.num_hidden_layers, "parameters": parameters, "vocabulary": config.vocab_size, "context": context,
            "chars per token": density, "context in characters": int(context * density)}


def grow(model: object, base_tokenizer: object, grown_tokenizer: object, multiple: int = 128, rows: str = "subtokens", seed: int = 0) -> object:
    """Give the model rows for the tokens that the grown tokenizer adds; return the model.

    `rows` says what a new row of the embedding and of the head begins as: `subtokens`, the mean of the rows of the tokens that spelt it
    before (XuanYuan-13B report); `mean`, the mean of all old rows; `normal`, drawn with the config's initializer_range, as
    Chinese-LLaMA did. Rows that only pad the size to a multiple, for tensor cores, are the mean of all old rows. Rows of old tokens keep
    their values, and rows that the base already had beyond its tokenizer (Qwen) are used first and never cut away.
    Raises ValueError when the tokenizer is not the model's, or is not an extension of the base's.
    """
    import torch

    old_rows, old_size = model.get_input_embeddings().weight.shape[0], len(base_tokenizer)
    if old_size > old_rows:
        raise ValueError(f"the model has {old_rows:,} rows and the base's tokenizer {old_size:,} tokens: they do not belong together")
    old_ids = list(range(old_size))
    if len(grown_tokenizer) < old_size or grown_tokenizer.convert_ids_to_tokens(old_ids) != base_tokenizer.convert_ids_to_tokens(old_ids):
        raise ValueError(f"the grown tokenizer ({len(grown_tokenizer):,} tokens) does not begin with the base's {old_size:,}: extend the base's own tokenizer")
    if rows not in ("subtokens", "mean", "normal"):
        raise ValueError(f"new rows can begin as subtokens, mean or normal, not as '{rows}'")
    model.resize_token_embeddings(max(old_rows, -(-len(grown_tokenizer) // multiple) * multiple), mean_resizing=False)
    parts = list(old_parts(base_tokenizer, grown_tokenizer).values())
    starts = torch.tensor([0, *map(len, parts)]).cumsum(0)[:-1]
    flat = torch.tensor([part for each in parts for part in each], dtype=torch.long)
    tables = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings().weight)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in tables:
            old = table[:old_size].float()
            table[old_size:] = old.mean(0)
            if rows == "subtokens" and parts:
                known = torch.tensor([bool(each) for each in parts], device=table.device)
                means = torch.nn.functional.embedding_bag(flat.to(table.device), old, starts.to(table.device), mode="mean")
                table[old_size:len(grown_tokenizer)][known] = means[known].to(table.dtype)
            if rows == "normal":
                drawn = torch.randn(len(parts), table.shape[1], generator=generator) * model.config.initializer_range
                table[old_size:len(grown_tokenizer)] = drawn.to(table)
    return model


def old_parts(base_tokenizer: object, grown_tokenizer: object) -> dict[int, list[int]]:
    """Return {new id: ids of the base's tokens that spelt it before}, in the order of the ids."""
    numbers = list(range(len(base_tokenizer), len(grown_tokenizer)))
    special, cut = grown_tokenizer.get_added_vocab(), base_tokenizer.backend_tokenizer.model.tokenize
    return {number: base_tokenizer(piece, add_special_tokens=False)["input_ids"] if piece in special  # plain text; the others are as the vocabulary has them
            else [part.id for part in cut(piece)] for number, piece in zip(numbers, grown_tokenizer.convert_ids_to_tokens(numbers), strict=True)}


def embedding_settings(model: object, train: str, first_new: int, size: int) -> dict:
    """Return what a LoraConfig needs to train `full`, `new_rows` or `none` of the embedding and the head.

    `full` (ZhiLu-13B) copies and trains both tables; `new_rows` trains the rows from `first_new` to `size` and saves only them;
    tied tables stay tied. Raises ValueError for another word, and when there are no new rows.
    """
    tables = [model.get_input_embeddings()] + [model.get_output_embeddings()] * (not model.config.tie_word_embeddings)
    names = [name.rpartition(".")[2] for table in tables for name, module in model.named_modules() if module is table]
    if train == "none":
        return {}
    if train == "full":
        return {"modules_to_save": names, "ensure_weight_tying": model.config.tie_word_embeddings}
    if train != "new_rows":
        raise ValueError(f"of the embeddings full, new_rows or none can be trained, not '{train}'")
    if first_new >= size:
        raise ValueError(f"there are no new rows to train: the base has {first_new:,} tokens and the tokenizer {size:,}; set train_embeddings to none or full")
    return {"trainable_token_indices": {name: list(range(first_new, size)) for name in names}}


def counts(model: object) -> dict[str, int]:
    """Return {trainable, total} parameters; tied ones count once."""
    return {"trainable": sum(p.numel() for p in model.parameters() if p.requires_grad), "total": sum(p.numel() for p in model.parameters())}


def logits(model: object, ids: list[int]) -> object:
    """Return the logits of one sequence, shape (length, vocabulary), float32."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([ids], device=model.device)).logits[0].float()


def merge(adapted: object, probe: list[int]) -> tuple[object, float]:
    """Merge a LoRA adapter into its base in float32; return (plain model, largest difference of logits on `probe`).

    Raises ValueError for a quantised base: the rounding would be merged in for good (merge into the full base, then quantise).
    """
    if getattr(adapted, "hf_quantizer", None) or getattr(adapted.get_base_model(), "hf_quantizer", None):
        raise ValueError("the base is quantised: load the full-precision base, merge there, and quantise the result")
    dtype = adapted.dtype
    adapted = adapted.float().eval()
    before = logits(adapted, probe)
    merged = adapted.merge_and_unload(safe_merge=True)
    difference = (logits(merged, probe) - before).abs().max().item()
    return merged.to(dtype), difference


def fetch(source: str) -> Path:
    """Return the local folder of a base given as a folder or as a hub id (downloaded once, then from the cache).

    Raises ValueError when it is neither, or holds no config.json.
    """
    from finlab import runs

    folder = runs.path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source))
        except Exception as error:
            raise ValueError(f"'{source}' is neither a folder ({folder}) nor a hub id that can be reached ({type(error).__name__})") from None
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no config.json, so it is not a model folder")
    return folder


def saved(step: str, artifact: Path, adapters: bool = False) -> dict[str, Path]:
    """Return {name: folder} of the models that a step left: its final `model`, others such as stage1 or int8, and if asked its adapters (on their bases)."""
    found = {}
    for child in sorted(artifact.iterdir()):
        inner = child / "model" if (child / "model" / "config.json").exists() else child
        if (inner / "config.json").exists() and inner.resolve() not in [path.resolve() for path in found.values()]:
            found[step if child.name == "model" else f"{step}/{child.name}"] = inner
        for folder in (child, child / "adapter"):
            if adapters and (folder / "base.json").exists() and not child.is_symlink():
                found[f"{step}/{folder.relative_to(artifact)}"] = folder
    return {name: found[name] for name in sorted(found, key=step.__eq__)}  # the final one last


def complete(model: object, tokenizer: object, text: str, new_tokens: int) -> str:
    """Return what a model writes after a text, greedily."""
    import torch

    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = torch.tensor([start + tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def fingerprint(folder: str | Path) -> str:
    """Return the SHA-256 of a model folder's weights: of every tensor's name, type, shape and bytes, however they are sharded."""
    files = sorted([*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")])
    return _fingerprint(Path(folder), tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.lru_cache(maxsize=8)
def _fingerprint(folder: Path, stamp: tuple) -> str:
    import hashlib

    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    if not any(folder.glob("*.safetensors")):  # an older base: its files as they are
        for name, _, _ in stamp:
            with open(folder / name, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()
    held = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            held |= {name: file for name in tensors.keys()}
    for name in sorted(held):
        with safe_open(held[name], "pt") as tensors:
            tensor = tensors.get_tensor(name).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def merge_onto(adapted: object, source: str | Path, adapter: Path, probe: list[int], dtype: str = "float32", initial: Path | None = None) -> object:
    """Save a trained adapter with its base's fingerprint, and merge it into the full-precision base at `source`; return the merged model.

    A model trained in full is returned as it is. A quantised base is left aside: the adapter is loaded onto the full one. `initial` is the
    adapter as it was before training, where its start had changed the base (PiSSA, OLoRA): what is saved then is the difference, which fits the
    base as it is on disk (PEFT). Raises ValueError when the merged logits on `probe` are not those of the trained model within
    the rounding of its type, or when merging itself changes them.
    """
    import torch
    from peft import PeftModel

    if not isinstance(adapted, PeftModel):
        return adapted.eval().to(getattr(torch, dtype))
    adapted = adapted.eval()
    plain = not (getattr(adapted, "hf_quantizer", None) or getattr(adapted.get_base_model(), "hf_quantizer", None))
    trained = logits(adapted, probe).cpu()
    changed = {"path_initial_model_for_weight_conversion": str(initial)} if initial else {}
    adapted.save_pretrained(adapter, save_embedding_layers=False, **changed)  # those that learn are saved all the same
    folder = fetch(str(source))
    record = {"base": os.path.relpath(folder.resolve(), Path(adapter).resolve()), "sha256": fingerprint(folder)}
    (Path(adapter) / "base.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    config = copy.deepcopy(adapted.get_base_model().config)  # its context may have been lengthened
    config.__dict__.pop("quantization_config", None)
    fresh = attach(load(source, dtype, device_map="cpu", config=config), adapter)  # the GPU may be full
    merged, difference = merge(fresh, probe)
    if difference > 1e-2:
        raise ValueError(f"merging {adapter} changed the logits by {difference}: the adapter does not belong to {source}")
    far, allowed = (logits(merged, probe) - trained).abs().max().item(), max(trained.abs().max().item(), 1) * (1e-3 if dtype == "float32" else 6e-2)
    if plain and far > allowed:
        raise ValueError(f"the merged model's logits are {far:.3g} from those of the model that was trained (allowed {allowed:.3g}): was {source} its base?")
    return merged.to(adapted.device)


def attach(base: object, adapter: Path) -> object:
    """Return a base with a saved adapter on it.

    Raises ValueError when the adapter holds tables of another size, or rows that the base lacks, or was trained on another base (by the
    fingerprint that `merge_onto` saved with it).
    """
    from peft import PeftModel
    from safetensors import safe_open

    adapter, rows = Path(adapter), base.get_input_embeddings().weight.shape[0]
    tokens = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("trainable_token_indices") or {}
    needed = max((1 + max(numbers) for numbers in (tokens.values() if isinstance(tokens, dict) else [tokens])), default=0)
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        tables = [file.get_slice(name).get_shape()[0] for name in file.keys() if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    if needed > rows or any(size != rows for size in tables):
        raise ValueError(f"the adapter {adapter} was trained with {max([needed, *tables]):,} rows of embeddings, the base has {rows:,}: "
                         "load it onto the grown model that it was trained on (the tokenizer step's)")
    if (adapter / "base.json").exists() and base.name_or_path:
        record = json.loads((adapter / "base.json").read_text(encoding="utf-8"))
        if fingerprint(fetch(base.name_or_path)) != record["sha256"]:
            raise ValueError(f"the adapter {adapter} was trained on another base than {base.name_or_path}: its weights have another SHA-256; "
                             f"load it onto {record['base']} (seen from the adapter)")
    return PeftModel.from_pretrained(base, str(adapter))


def sample(model: object, tokenizer: object, count: int, new_tokens: int, seed: int) -> list[str]:
    """Return `count` texts that a model writes by itself from BOS (from EOS where it has no BOS, as Qwen): a stand-in for its unpublished training text."""
    import torch

    torch.manual_seed(seed)
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = torch.full((count, 1), start, device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=True, top_k=0, temperature=1.0,
                             pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(out, skip_special_tokens=True)
    return [text for text in texts if text.strip()]
