"""Model families for tokensieve, one file each. Adding one is a new file and a line here."""

from tokensieve import Registry, hookimpl
from tokensieve_adapters.llava import LlavaAdapter
from tokensieve_adapters.timm_vit import TimmVitAdapter

ADAPTERS = (
    LlavaAdapter,
    TimmVitAdapter,
)


@hookimpl
def register_adapters(registry: Registry) -> None:
    """Add every family."""
    for adapter in ADAPTERS:
        registry.add_adapter(adapter)
