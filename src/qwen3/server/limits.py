"""Every bound on what a request may hold, in one place.

A request within these bounds costs no more than a known amount of memory and time before the engine has it, and cannot
break the step that it shares with others. What depends on the model (its context, its vocabulary) is not here.
"""

from qwen3 import grammar

BODY_BYTES = 16 << 20
"""Of a request's body."""
BODY_SECONDS = 60.0
"""Within which a body must have arrived."""
JSON_DEPTH = 64
"""Objects and lists inside one another."""
REQUEST_ID_CHARS = 64
"""Of an X-Request-Id that a client chooses."""
LABEL_CHARS = 256
"""Of a name that has an effect: a model's, a schema's, a cache salt."""
IDLE_LABEL_CHARS = 4096
"""Of a label without effect, such as a user."""

MESSAGES = 4096
CONTENT_PARTS = 4096
"""Of one message."""
TOOL_CALLS = 4096
"""Of one message."""
TOOLS = 128
TOOL_NAME_CHARS = 128
SCHEMA_BYTES = grammar.MAX_SOURCE_BYTES
"""Of a JSON schema, grammar or regular expression."""
GUIDED_CHOICES = grammar.MAX_CHOICES
"""Strings of structured_outputs.choice."""

CHOICES = 32
"""n: answers to one prompt."""
PROMPTS = 256
"""Of one completion request."""
SEQUENCES = 512
"""n x prompts."""
IDS = 1 << 20
"""Token ids in one list, of a request or of an answer to one for tokens."""

STOPS = 16
STOP_CHARS = 256
STOP_TOKEN_IDS = 64
LOGIT_BIASES = 1024
LOGIT_BIAS = 100.0
"""Largest bias either way."""
TEMPERATURE = 2.0
PENALTY = 2.0
"""Largest presence and frequency penalty either way."""
REPETITION_PENALTY = 10.0
REPETITION_PENALTY_MIN = 0.1
TOP_LOGPROBS = 20
TOKENS = 1 << 24
"""Any count of tokens: far beyond every context."""
PRIORITY = 1000
"""Largest priority either way."""

PENDING_EVENTS = 4096
"""Of an answer that its client does not read. Beyond, the request is aborted."""

CONTEXTS = 64
"""Context lengths in one question to the memory calculator."""
