"""The MCP server, with which agents find, download, verify, manage and run open models."""
