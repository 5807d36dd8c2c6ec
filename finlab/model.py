"""Models: choose the attention, load, describe, grow the vocabulary, merge LoRA."""

from __future__ import annotations

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


def load(source: str | Path, dtype: str = "float32", **settings: object) -> object:
    """Load a causal language model from a folder or a hub id with this machine's attention.

    `settings` go to `from_pretrained` (quantization_config, device_map, ...). Without a device_map the model goes to the GPU
    where there is one. Raises ValueError when there is no model at `source`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if Path(source).is_dir() and not (Path(source) / "config.json").exists():
        raise ValueError(f"no model at '{source}': the folder holds no config.json")
    try:
        model = AutoModelForCausalLM.from_pretrained(str(source), dtype=getattr(torch, dtype), attn_implementation=attention(dtype), **settings)
    except OSError as error:
        raise ValueError(f"no model at '{source}': give a folder with config.json and weights, or a hub id you can reach "
                         f"({str(error).strip().splitlines()[0][:150]})") from None
    if torch.cuda.is_available() and "device_map" not in settings:
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


def grow(model: object, base_tokenizer: object, grown_tokenizer: object, multiple: int = 64) -> object:
    """Give the model rows for the tokens that the grown tokenizer adds; return the model.

    A new row, of the embedding and of the head, is the mean of the rows of its old sub-tokens (XuanYuan-13B report); rows
    that only pad the size to a multiple, for tensor cores, are the mean of all old rows. Rows of old tokens keep their values, and rows
    that the base already had beyond its tokenizer are never cut away.
    """
    import torch

    old_rows, old_size = model.get_input_embeddings().weight.shape[0], len(base_tokenizer)
    size = max(old_rows, -(-len(grown_tokenizer) // multiple) * multiple)
    model.resize_token_embeddings(size, mean_resizing=False)
    backend = base_tokenizer.backend_tokenizer.model
    new = {number: [part.id for part in backend.tokenize(grown_tokenizer.convert_ids_to_tokens(number))] for number in range(old_size, len(grown_tokenizer))}
    tables = [model.get_input_embeddings().weight]
    if not model.config.tie_word_embeddings:
        tables.append(model.get_output_embeddings().weight)
    with torch.no_grad():
        for table in tables:
            table[old_size:] = table[:old_size].mean(0)
            for number, parts in new.items():
                if parts:
                    table[number] = table[parts].mean(0)
    return model


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


def saved(step: str, artifact: Path) -> dict[str, Path]:
    """Return {name: folder} of the models that a step left: its final `model`, and others such as stage1 or int8."""
    found = {}
    for child in sorted(artifact.iterdir()):
        inner = child / "model" if (child / "model" / "config.json").exists() else child
        if (inner / "config.json").exists() and inner.resolve() not in [path.resolve() for path in found.values()]:
            found[step if child.name == "model" else f"{step}/{child.name}"] = inner
    return found


def complete(model: object, tokenizer: object, text: str, new_tokens: int) -> str:
    """Return what a model writes after a text, greedily."""
    import torch

    ids = torch.tensor([[tokenizer.bos_token_id] + tokenizer(text, add_special_tokens=False)["input_ids"]], device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def merge_onto(adapted: object, source: str | Path, adapter: Path, probe: list[int], dtype: str = "float32") -> object:
    """Save a trained adapter and merge it into the full-precision base at `source`; return the merged model.

    A model trained in full is returned as it is. A quantised base is left aside: the adapter is loaded onto the full one.
    Raises ValueError when merging changes the logits on `probe` by more than rounding.
    """
    import torch
    from peft import PeftModel

    if not isinstance(adapted, PeftModel):
        return adapted.eval().to(getattr(torch, dtype))
    adapted.save_pretrained(adapter)
    fresh = PeftModel.from_pretrained(load(source, dtype, device_map="cpu"), str(adapter))  # the GPU may be full
    merged, difference = merge(fresh, probe)
    if difference > 1e-2:
        raise ValueError(f"merging {adapter} changed the logits by {difference}: the adapter does not belong to {source}")
    return merged.to(adapted.device)


def sample(model: object, tokenizer: object, count: int, new_tokens: int, seed: int) -> list[str]:
    """Return `count` texts that a model writes by itself from BOS: a stand-in for its unpublished training text."""
    import torch

    torch.manual_seed(seed)
    ids = torch.full((count, 1), tokenizer.bos_token_id, device=model.device)
    with torch.inference_mode():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=True, top_k=0, temperature=1.0,
                             pad_token_id=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(out, skip_special_tokens=True)
    return [text for text in texts if text.strip()]
