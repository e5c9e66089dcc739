"""The built-in adapters, one file for each model family. A new family is a new file and a line here."""

from importlib.resources import files
from pathlib import Path

from tokensieve import Registry, hookimpl
from tokensieve_adapters.cohere_vision import AyaVisionAdapter, Cohere2VisionAdapter
from tokensieve_adapters.fast_vlm import FastVlmAdapter
from tokensieve_adapters.gemma3 import Gemma3Adapter
from tokensieve_adapters.gemma4 import Gemma4Adapter
from tokensieve_adapters.glm4v import Glm4vAdapter, Glm4vMoeAdapter, Glm46vAdapter
from tokensieve_adapters.idefics3 import Idefics3Adapter, SmolVLMAdapter
from tokensieve_adapters.internvl import InternVLAdapter
from tokensieve_adapters.lfm2_vl import Lfm2VlAdapter
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.llava_next import LlavaNextAdapter
from tokensieve_adapters.llava_next_video import LlavaNextVideoAdapter
from tokensieve_adapters.llava_onevision import LlavaOnevisionAdapter
from tokensieve_adapters.molmo2 import Molmo2Adapter
from tokensieve_adapters.ovis2 import Ovis2Adapter
from tokensieve_adapters.paligemma import PaliGemma2Adapter, PaliGemmaAdapter
from tokensieve_adapters.perception_lm import PerceptionLMAdapter
from tokensieve_adapters.pixtral import Mistral3Adapter, PixtralAdapter
from tokensieve_adapters.qwen2_5_vl import Qwen25VLAdapter
from tokensieve_adapters.qwen2_vl import Qwen2VLAdapter
from tokensieve_adapters.qwen3_5 import Qwen35Adapter, Qwen35MoeAdapter
from tokensieve_adapters.qwen3_vl import Qwen3VLAdapter, Qwen3VLMoeAdapter
from tokensieve_adapters.qwen_omni import Qwen3OmniAdapter, Qwen25OmniAdapter
from tokensieve_adapters.refused import InstructBlipAdapter, Llama4Adapter, MllamaAdapter
from tokensieve_adapters.timm_vit import TimmVitAdapter
from tokensieve_adapters.video_llava import VideoLlavaAdapter

ADAPTERS = (
    LlavaAdapter,
    LlavaNextAdapter,
    LlavaOnevisionAdapter,
    LlavaNextVideoAdapter,
    VideoLlavaAdapter,
    PixtralAdapter,
    Mistral3Adapter,
    Qwen2VLAdapter,
    Qwen25OmniAdapter,
    Qwen25VLAdapter,
    Qwen3VLAdapter,
    Qwen3VLMoeAdapter,
    Qwen3OmniAdapter,
    Qwen35Adapter,
    Qwen35MoeAdapter,
    Glm4vAdapter,
    Glm4vMoeAdapter,
    Glm46vAdapter,
    InternVLAdapter,
    Idefics3Adapter,
    SmolVLMAdapter,
    PaliGemmaAdapter,
    PaliGemma2Adapter,
    Gemma3Adapter,
    Gemma4Adapter,
    AyaVisionAdapter,
    Cohere2VisionAdapter,
    Ovis2Adapter,
    FastVlmAdapter,
    PerceptionLMAdapter,
    Lfm2VlAdapter,
    Molmo2Adapter,
    TimmVitAdapter,
    InstructBlipAdapter,
    Llama4Adapter,
    MllamaAdapter,
)


@hookimpl
def register_adapters(registry: Registry) -> None:
    """Add every adapter, and the geometries of released models in `geometries/`."""
    for adapter in ADAPTERS:
        registry.add_adapter(adapter)
    for file in sorted(files(__name__).joinpath("geometries").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".json"):
            registry.add_geometry(file)


@hookimpl
def register_tasks(registry: Registry) -> None:
    """Add the shipped checkpoints in `checkpoints/`, which were trained on the drawn tasks."""
    folder = Path(__file__).parent / "checkpoints"
    llava = folder / "world_llava"
    registry.add_checkpoint("world-llava", llava, llava / "clip")
    registry.add_checkpoint("world-llava-weak", llava, llava / "clip_weak")
    registry.add_checkpoint("world-qwen", folder / "world_qwen")
    registry.add_checkpoint("world-qwen-wide", folder / "world_qwen_wide")
