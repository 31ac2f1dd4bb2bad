"""
Embedders to copy: OpenAI, sentence-transformers, Amazon Bedrock, Ollama, one without a network.

Each module stands alone: it needs numpy and its provider's package, and imports the latter only
when an embedder is made. None imports mneme, because an embedder is any object that keeps the
contract of ``docs/guides/bring-your-own-embedder.md``.
"""
