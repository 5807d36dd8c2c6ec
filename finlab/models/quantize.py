"""Quantize a model and save it in a form that servers can load.

The formats are int8, NF4, GPTQ, AWQ, FP8 and GGUF.

    quantize.missing("awq4")                          # "", or why this machine cannot make it
    quantize.make(source, config, tokenizer, folder)  # without the calibration texts
    model = loading.load(folder)

bitsandbytes (int8, NF4) rounds the weights while it loads them. GPTQ and AWQ need calibration
texts, see `calibration`. FP8 is the scheme FP8_DYNAMIC of llm-compressor, which needs no data: it
has one scale for each row of weights, and one for each token of activations.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finlab import files
from finlab.models import adapters, loading

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FP8_FORMAT = "float-quantized"  # compressed-tensors' name of FP8 weights on disk
HEAD = "lm_head"  # stays in full precision in all formats
CONVERTER = "convert_hf_to_gguf.py"  # the converter of llama.cpp


# --- what can be made here -----------------------------------------------------------------------
def missing(name: str) -> str:
    """Return why this machine cannot make a format; empty if it can.

    Args:
        name: Name of the format: int8, nf4, gptq4, awq4, fp8 or gguf.
    """
    if name == "awq4" and not torch.cuda.is_available():
        return "AWQ is made by GPTQModel on CUDA alone"
    if name == "fp8" and importlib.util.find_spec("compressed_tensors") is None:
        return "FP8 needs the package compressed-tensors: pip install compressed-tensors"
    if name == "gguf" and not _converter():
        return f"GGUF needs llama.cpp's {CONVERTER}: put it on PATH, or name its folder LLAMA_CPP"
    return ""


CPU_GROUPS = (32, 64, 128, 256)  # group sizes of torch's _weight_int4pack_mm_for_cpu


def require_groups(config: PretrainedConfig, group_size: int) -> None:
    """Raise an error if layer widths cannot be divided into groups that share a scale.

    Args:
        config: The config of the model.
        group_size: How many columns share a scale.

    Raises:
        ValueError: A width is not divisible by `group_size`. For example, stories260K has 172
            columns, which cannot be divided into groups of 32. Or there is no GPU, and PyTorch's
            kernel for CPUs does not support this group size.
    """
    for name in ("hidden_size", "intermediate_size"):
        width = getattr(config, name)
        if width % group_size:
            raise ValueError(
                f"4 bits in groups of {group_size} need widths divisible by {group_size}, "
                f"but {name} is {width}: change group_size, or leave gptq4 and awq4 out of formats"
            )
    if not torch.cuda.is_available() and group_size not in CPU_GROUPS:
        raise ValueError(
            f"gptq_group is {group_size}: without a GPU it can be one of {CPU_GROUPS}: choose one, "
            "or leave gptq4 and awq4 out of formats"
        )


def require_full_precision(source: str | Path) -> None:
    """Raise an error if a model is quantised already, or if it is only an adapter.

    Args:
        source: A model's folder, or a hub id.

    Raises:
        ValueError: The model is quantised, or `source` is an adapter.
    """
    if adapters.is_adapter(source):
        raise ValueError(
            f"{source} is an adapter: merge it into its base, and quantise the merged model"
        )
    config = loading.read_config(source)
    done = getattr(config, "quantization_config", None)
    if done:
        method = done.get("quant_method", "some method") if isinstance(done, dict) else done
        raise ValueError(
            f"{source} is quantised already ({method}): quantise the full-precision model, "
            "since a second rounding adds its error to the first"
        )


def require_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an error if a model would pad with another token than its tokenizer.

    Quantisers and batches of questions need padding. A wrong pad token would be read as text.

    Args:
        model: The model.
        tokenizer: The tokenizer of the model.

    Raises:
        ValueError: The tokenizer has no pad token, the model names another pad token, or the model
            has no embedding row for it.
    """
    pad = tokenizer.pad_token_id
    if pad is None:
        raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, and save it")
    rows = model.get_input_embeddings().weight.shape[0]
    if pad >= rows:
        raise ValueError(
            f"the pad token is {pad}, but the model has {rows} rows of embeddings: "
            "grow the model, or choose another pad token"
        )
    for name, config in (("config", model.config), ("generation_config", model.generation_config)):
        named = getattr(config, "pad_token_id", None)
        if named is not None and named != pad:
            raise ValueError(
                f"the model's {name} pads with token {named}, its tokenizer with {pad}: "
                f"set {name}.pad_token_id to {pad}, and save the model again"
            )


# --- making --------------------------------------------------------------------------------------
def round_model(
    source: str | Path, settings: Any, dtype: str = "float32", device: str = "cpu"
) -> PreTrainedModel:
    """Load a model and return it quantised.

    Args:
        source: The folder of a full-precision model.
        settings: A BitsAndBytesConfig or GPTQConfig of transformers, or a QuantizationConfig of
            compressed-tensors.
        dtype: Type of the weights that stay in full precision, such as `bfloat16`.
        device: Device on which the model is quantised, such as `cuda`.

    Raises:
        ValueError: The model is quantised already.
    """
    require_full_precision(source)
    if type(settings).__module__.startswith("compressed_tensors"):
        return _round_to_fp8(loading.load(source, dtype, device_map=device), settings)
    model = loading.load(source, dtype, quantization_config=settings, device_map=device)
    forget_calibration(model)
    return model


def forget_calibration(model: PreTrainedModel) -> None:
    """Remove the calibration texts from a model's config.

    transformers writes the `dataset` of a GPTQConfig into config.json, text by text. The texts
    would be published together with the model.

    Args:
        model: The model, changed in place.
    """
    settings = getattr(model.config, "quantization_config", None)
    if getattr(settings, "dataset", None) is not None:
        settings.dataset = None
    if getattr(settings, "tokenizer", None) is not None:
        settings.tokenizer = None


def _round_to_fp8(model: PreTrainedModel, settings: Any) -> PreTrainedModel:
    """Return a model whose linear layers hold 8-bit floats.

    Args:
        model: The model in full precision, changed in place.
        settings: A QuantizationConfig of compressed-tensors.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams

    apply_quantization_config(model, settings)
    for layer in model.modules():
        scheme = getattr(layer, "quantization_scheme", None)
        if scheme is None:
            continue
        lowest = layer.weight.amin(1, keepdim=True)
        highest = layer.weight.amax(1, keepdim=True)
        scale, _ = calculate_qparams(lowest, highest, scheme.weights)
        layer.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model, quantization_format=FP8_FORMAT)
    compressor.compress_model(model)
    model.fp8_compressor = compressor  # `make` uses it to write its part of config.json
    return model


def fp8_config() -> Any:
    """Return compressed-tensors' QuantizationConfig for FP8_DYNAMIC."""
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    return QuantizationConfig(
        config_groups={"group_0": preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])},
        ignore=[HEAD],
        quantization_status="frozen",
        format=FP8_FORMAT,
    )


def make_awq(
    source: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    group_size: int,
    folder: Path,
) -> None:
    """Quantise a model with GPTQModel's AWQ, and save it. This needs CUDA.

    Args:
        source: The folder of a full-precision model.
        tokenizer: The tokenizer of the model.
        rows: Calibration rows from `calibration.encode`.
        group_size: How many weights share a scale.
        folder: Folder to save the model and its tokenizer in.
    """
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import AWQConfig

    require_full_precision(source)
    model = GPTQModel.load(str(source), AWQConfig(bits=4, group_size=group_size))
    model.quantize([row["input_ids"][0].tolist() for row in rows], batch_size=1)
    model.save(str(folder))
    tokenizer.save_pretrained(folder)


# --- saving --------------------------------------------------------------------------------------
def make(
    source: str | Path,
    settings: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: str = "float32",
    device: str = "cpu",
) -> None:
    """Quantise a model, and save it with its tokenizer, ready for a server.

    The model is saved before its first forward pass. In that pass the kernels of GPTQ and FP8
    convert the weights into forms that servers cannot read.

    Args:
        source: The folder of a full-precision model.
        settings: The quantization config; see `round_model`.
        tokenizer: The tokenizer of the model.
        folder: Folder to save the model and its tokenizer in.
        dtype: Type of the weights that stay in full precision, such as `bfloat16`.
        device: Device on which the model is quantised, such as `cuda`.

    Raises:
        ValueError: The model is quantised already, or pads with another token than its tokenizer.
    """
    model = round_model(source, settings, dtype, device)
    require_pad(model, tokenizer)
    _use_first_gptq_format(model)
    model.save_pretrained(folder)
    compressor = getattr(model, "fp8_compressor", None)
    if compressor is not None:
        compressor.update_config(str(folder))
    tokenizer.save_pretrained(folder)


def _use_first_gptq_format(model: PreTrainedModel) -> None:
    """Convert GPTQ weights to the form that every server can read.

    In memory the weights have GPTQModel's second form, and transformers would save this form. vLLM
    before 0.11.1 and other servers read it as the first form. Their models then write "!!!!"
    (vllm-project/vllm#26343).

    Args:
        model: The model, changed in place. A model of another format is not changed.
    """
    quantizer = getattr(getattr(model, "hf_quantizer", None), "optimum_quantizer", None)
    if quantizer is None:
        return
    from gptqmodel.utils.model import hf_convert_gptq_v2_to_v1_format

    _, changed = hf_convert_gptq_v2_to_v1_format(
        model,
        quantizer.sym,
        quantizer.bits,
        quantizer.quant_linear,
        quantizer.format,
        quantizer.meta,
    )
    if changed:
        model.config.quantization_config.format = "gptq"


def full_precision_weights(folder: Path) -> list[str]:
    """Return the names of the matrices that a saved model holds in full precision.

    Args:
        folder: A folder of safetensors files.
    """
    from safetensors import safe_open

    names = []
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():
                view = tensors.get_slice(name)
                matrix = len(view.get_shape()) == 2 and name.endswith(".weight")
                if matrix and view.get_dtype() in ("F32", "F16", "BF16"):
                    names.append(name)
    return sorted(names)


def weight_bytes(folder: Path) -> int:
    """Return the total size of a saved model's weight files, in bytes."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


# --- GGUF ----------------------------------------------------------------------------------------
@functools.cache
def _converter() -> str:
    """Return the path of llama.cpp's converter; empty if it is not installed."""
    named = os.environ.get("LLAMA_CPP", "")
    if named and (Path(named) / CONVERTER).exists():
        return str(Path(named) / CONVERTER)
    return shutil.which(CONVERTER) or ""


def export_gguf(source: str | Path, target: Path, kind: str = "q8_0") -> Path:
    """Write a model as a GGUF file with llama.cpp's own converter, for llama.cpp and Ollama.

    Args:
        source: The folder of a full-precision model.
        target: The GGUF file to write.
        kind: The converter's `--outtype`: f32, f16, bf16, q8_0 or auto.

    Returns:
        `target`.

    Raises:
        ValueError: llama.cpp is not installed, or its converter refuses the model.
    """
    require_full_precision(source)
    if missing("gguf"):
        raise ValueError(missing("gguf"))
    part = target.with_name(f"{target.name}.part")
    command = [sys.executable, _converter(), str(source), "--outfile", str(part), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not part.exists():
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        part.unlink(missing_ok=True)
        raise ValueError(f"llama.cpp's converter cannot write {source} as {kind}: {' '.join(last)}")
    os.replace(part, target)
    return target


# --- settings of a saved model -------------------------------------------------------------------
def method_of(folder: str | Path) -> str:
    """Return how a saved model is quantised: gptq, awq, bitsandbytes, ...; empty if it is not.

    Args:
        folder: Folder of the model.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return ""
    try:
        settings = files.read_json(path).get("quantization_config") or {}
    except (json.JSONDecodeError, AttributeError):
        return ""
    return str(settings.get("quant_method", ""))
