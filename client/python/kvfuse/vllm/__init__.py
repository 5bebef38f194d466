"""A KV connector for vLLM: prompts' KV goes into a kvfuse store and comes back instead of being computed again.

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "KvfuseConnector", "kv_connector_module_path": "kvfuse.vllm",
        "kv_role": "kv_both", "kv_connector_extra_config": {"address": "127.0.0.1:7311"}}'

Nothing of vLLM is patched. settings.py has what kv_connector_extra_config may hold.
"""

from .connector import KvfuseConnector

__all__ = ["KvfuseConnector"]
