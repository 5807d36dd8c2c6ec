"""Serve a model over OpenAI's API, with vLLM or with the server of transformers.

    settings = serve.settings("runs/smoke/dpo/artifact/model", port=8000)
    serve.vllm_command(settings)             # what to run on a GPU server
    app = serve.app(settings)                # transformers' server, for uvicorn
    serve.run(app, settings)

The command `transformers serve FOLDER` works with our folders too. This module adds adapters, a
list of models that contains our model, and clear error messages. Such a message is one sentence,
for example if a prompt is too long, a template raises an error, or a request has no messages.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finlab import files
from finlab.models import adapters, folders, loading, quantize, tokenization

if TYPE_CHECKING:
    from fastapi import FastAPI
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SETTINGS_FILE = "serve.json"
TOOL_MARK = "<tool_call>"  # marks a chat template with tools in Qwen's form, "hermes" in vLLM
# How the server of transformers finds tool calls in the output of a model with our chatml template.
# transformers has the same rules for Qwen's models and finds them by the model's name. Our models
# may be Llamas, and their tokenizer puts a space after <|im_start|>.
CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"<\|im_start\|>\s?assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|im_end\|>", "content": "text"},
    },
}
ENGINES = ("auto", "vllm", "transformers")


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes:
        folder: Folder of the model or of the adapter.
        name: The name by which clients request the model.
        engine: vllm or transformers.
        host: The address to listen on. Only this machine can reach 127.0.0.1.
        port: The port to listen on.
        context: Most tokens of prompt and answer together.
        method: How the model is quantised, such as gptq; empty if it is not.
        base: Folder of an adapter's base; empty for a model.
        tools: Whether the chat template supports tools.
    """

    folder: str
    name: str
    engine: str
    host: str
    port: int
    context: int
    method: str
    base: str
    tools: bool

    @property
    def url(self) -> str:
        """The URL at which clients reach the model."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


def settings(
    source: str | Path,
    name: str = "",
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> Settings:
    """Return the settings with which a model will be served.

    Args:
        source: Folder of a model, folder of an adapter, or a hub id.
        name: The name by which clients request the model; empty takes the folder's name.
        engine: vllm, transformers, or auto. `auto` means vLLM if it is installed, else
            transformers.
        host: The address to listen on.
        port: The port to listen on.

    Raises:
        ValueError: There is no model, it has no chat template, or the engine is unknown.
    """
    if engine not in ENGINES:
        raise ValueError(f"--engine {engine}: write one of {', '.join(ENGINES)}")
    folder = Path(source)
    if not adapters.is_adapter(folder):
        folder = folders.fetch(str(source))
    base = adapters.base_of(folder) if adapters.is_adapter(folder) else None
    tokenizer = tokenization.load(folder)
    if not tokenizer.chat_template:
        raise ValueError(
            f"{source} has no chat template, so it is a base and no chat model: "
            "serve the model of step sft or dpo"
        )
    if engine == "auto":
        engine = "vllm" if importlib.util.find_spec("vllm") else "transformers"
    return Settings(
        folder=str(folder),
        name=name or folder.name,
        engine=engine,
        host=host,
        port=port,
        context=loading.read_config(base or folder).max_position_embeddings,
        method=quantize.method_of(base or folder),
        base=str(base) if base else "",
        tools=TOOL_MARK in str(tokenizer.chat_template),
    )


def save(chosen: Settings) -> Path | None:
    """Write the settings into the model's folder, so that a colleague can serve it the same way.

    Returns:
        The file; None if the folder is not writable, as the hub's cache may be.
    """
    record = asdict(chosen) | {"vllm": vllm_command(chosen, strict=False)}
    try:
        return files.write_json(Path(chosen.folder) / SETTINGS_FILE, record)
    except OSError:
        return None


# --- vLLM ----------------------------------------------------------------------------------------
def vllm_command(chosen: Settings, strict: bool = True) -> list[str]:
    """Return vLLM's command line for a model, as a list of words.

    vLLM reads the quantization method, the chat template and the sampling settings from the
    model's folder.

    Args:
        chosen: How the model is served.
        strict: Raise an error for an adapter that vLLM cannot serve. False returns an empty list
            for it.

    Raises:
        ValueError: The adapter trained the embedding or the head, or single rows of them; or its
            rank is too large for vLLM.
    """
    words = ["vllm", "serve", chosen.base or chosen.folder]
    words += ["--served-model-name", f"{chosen.name}-base" if chosen.base else chosen.name]
    words += ["--host", chosen.host, "--port", str(chosen.port)]
    words += ["--max-model-len", str(chosen.context)]
    if chosen.base:
        config = files.read_json(Path(chosen.folder) / "adapter_config.json")
        if config.get("modules_to_save") or config.get("trainable_token_indices"):
            if not strict:
                return []
            raise ValueError(
                f"vLLM serves no adapter with trained embeddings ({chosen.folder}): "
                "serve the merged model, or use --engine transformers"
            )
        words += ["--enable-lora", "--max-lora-rank", str(_vllm_rank(config["r"]))]
        words += ["--lora-modules", f"{chosen.name}={chosen.folder}"]
    if chosen.tools:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    return words


def _vllm_rank(rank: int) -> int:
    """Return the smallest rank supported by vLLM that is at least as large as an adapter's rank."""
    for known in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= known:
            return known
    raise ValueError(f"vLLM serves adapters up to rank 512, and this one has {rank}: merge it")


def shown(words: list[str]) -> str:
    """Return a command line as text that can be copied into a shell."""
    return shlex.join(words)


def require_vllm() -> None:
    """Raise an error if vLLM is not installed."""
    if not shutil.which("vllm"):
        raise ValueError(
            "vLLM is not installed here: pip install 'finlab-workbook[vllm]' on a machine with a "
            "GPU, or use --engine transformers"
        )


# --- transformers' server ------------------------------------------------------------------------
def require_server() -> None:
    """Raise an error if a package for the server of transformers is not installed."""
    for package in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"serving needs the package {package}: pip install -e '.[serve]' in the checkout"
            )


def app(chosen: Settings) -> FastAPI:
    """Load a model, and return the server of transformers with this model.

    The server answers one request after another. The continuous batching of transformers 5.23 is
    not used: with it, a model on a CPU wrote different tokens than without it (16年 for 1996年). For
    many clients, use vLLM.

    Args:
        chosen: How the model is served.

    Raises:
        ValueError: Packages are missing, or the model cannot be loaded.
    """
    require_server()
    from finlab.models import serve_handlers

    return serve_handlers.build(chosen.name, *_loaded(chosen))


def _loaded(chosen: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model and tokenizer; tool calls are parsed if the chat template supports tools."""
    tokenizer = tokenization.load(chosen.folder)
    if chosen.tools and getattr(tokenizer, "response_template", None) is None:
        tokenizer.response_template = CALLS
    model = loading.load(chosen.folder, loading.usual_dtype())
    quantize.require_pad(model, tokenizer)
    return model, tokenizer


def run(made: FastAPI, chosen: Settings) -> None:
    """Run a server until it is stopped.

    Args:
        made: The server, from `app`.
        chosen: How the model is served.
    """
    import uvicorn

    config = uvicorn.Config(
        made,
        host=chosen.host,
        port=chosen.port,
        log_level="warning",
        timeout_graceful_shutdown=3,  # seconds; an open page keeps its connection forever
    )
    uvicorn.Server(config).run()
