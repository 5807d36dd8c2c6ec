"""Serve a model over OpenAI's API, with vLLM or with transformers' server.

    settings = serve.settings("runs/smoke/dpo/artifact/model", port=8000)
    serve.vllm_command(settings)             # what to run on a GPU server
    app = serve.app(settings)                # transformers' server, for uvicorn
    serve.run(app, settings)

transformers' own `transformers serve FOLDER` works on our folders too. This server adds what it
lacks: adapters, a list with our model in it, and one clear sentence for a prompt that is too long,
a template that refuses, or a request without messages.
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
TOOL_MARK = "<tool_call>"  # in a chat template: tools in Qwen's form, which vLLM calls hermes
# How transformers' server finds the calls of tools in what a model with our chatml template wrote.
# It has the same for Qwen's models by their name; ours may be Llamas, whose tokenizer puts a space
# behind <|im_start|>.
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
        folder: The model's, or an adapter's.
        name: By which clients ask for it.
        engine: vllm or transformers.
        host: The address that is listened on; 127.0.0.1 is seen from this machine alone.
        port: The port.
        context: Tokens that the model reads, prompt and answer together.
        method: How it is quantised; empty if it is not.
        base: An adapter's base; empty for a model.
        tools: Whether its template has a place for tools.
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
        """Where clients find it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"


def settings(
    source: str | Path,
    name: str = "",
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
) -> Settings:
    """Return how a model will be served.

    Args:
        source: A model's folder, an adapter's, or a hub id.
        name: By which clients ask for it; empty takes the folder's.
        engine: vllm, transformers, or auto: vLLM where it is installed.
        host: The address to listen on.
        port: The port.

    Raises:
        ValueError: There is no model, it has no chat template, or the engine is not installed.
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
    """Write the settings beside the model, so that a colleague serves it in the same way.

    Returns:
        The file; None where the folder cannot be written, such as the hub's cache.
    """
    record = asdict(chosen) | {"vllm": vllm_command(chosen, strict=False)}
    try:
        return files.write_json(Path(chosen.folder) / SETTINGS_FILE, record)
    except OSError:
        return None


# --- vLLM ----------------------------------------------------------------------------------------
def vllm_command(chosen: Settings, strict: bool = True) -> list[str]:
    """Return vLLM's command line for a model.

    It reads the method of quantization, the chat template and the sampling settings from the
    folder.

    Args:
        chosen: How it is served.
        strict: Refuse an adapter that vLLM cannot serve; else return no words.

    Raises:
        ValueError: The adapter trained whole tables or single rows of them.
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
    """Return the smallest rank that vLLM has kernels for and that holds a rank."""
    for known in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= known:
            return known
    raise ValueError(f"vLLM serves adapters up to rank 512, and this one has {rank}: merge it")


def shown(words: list[str]) -> str:
    """Return a command line as a person copies it."""
    return shlex.join(words)


def require_vllm() -> None:
    """Refuse to start vLLM where it is not installed."""
    if not shutil.which("vllm"):
        raise ValueError(
            "vLLM is not installed here: pip install 'finlab-workbook[vllm]' on a machine with a "
            "GPU, or use --engine transformers"
        )


# --- transformers' server ------------------------------------------------------------------------
def require_server() -> None:
    """Refuse to start transformers' server without its packages."""
    for package in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"serving needs the package {package}: pip install -e '.[serve]' in the checkout"
            )


def app(chosen: Settings) -> FastAPI:
    """Load a model, and return transformers' server around it.

    It answers one request after another: with transformers 5.23's continuous batching a model on a
    CPU wrote other tokens than alone (16年 for 1996年). vLLM is for many clients.

    Args:
        chosen: How it is served.

    Raises:
        ValueError: The packages are missing, or the model cannot be loaded.
    """
    require_server()
    from finlab.models import serve_handlers

    return serve_handlers.build(chosen.name, *_loaded(chosen))


def _loaded(chosen: Settings) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return model and tokenizer; where its template has tools, calls of them are read."""
    tokenizer = tokenization.load(chosen.folder)
    if chosen.tools and getattr(tokenizer, "response_template", None) is None:
        tokenizer.response_template = CALLS
    model = loading.load(chosen.folder, loading.usual_dtype())
    quantize.require_pad(model, tokenizer)
    return model, tokenizer


def run(made: FastAPI, chosen: Settings) -> None:
    """Serve until somebody stops it.

    Args:
        made: The server.
        chosen: How it is served.
    """
    import uvicorn

    config = uvicorn.Config(
        made,
        host=chosen.host,
        port=chosen.port,
        log_level="warning",
        timeout_graceful_shutdown=3,  # seconds: an open page holds its connection for ever
    )
    uvicorn.Server(config).run()
