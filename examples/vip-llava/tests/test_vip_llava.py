from tokensieve.testing import AdapterConformance

from vip_llava import VipLlavaAdapter


class TestVipLlava(AdapterConformance):
    adapter = VipLlavaAdapter
