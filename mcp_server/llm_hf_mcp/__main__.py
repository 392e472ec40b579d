"""`python -m llm_hf_mcp`: the same as `llm-hf-mcp`."""

from llm_hf_mcp.main import main

main()
