"""The model behind an OpenAI-compatible HTTP interface: an asyncio front and one engine thread."""
