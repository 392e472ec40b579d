"""The MCP server: agents find, fetch, prove, keep and run open models on this machine. Decides nothing itself."""
