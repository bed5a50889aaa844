"""A Hugging Face Hub on loopback: what tests publish to and load from.

Unmodified clients talk to it; it keeps its state in a folder and refuses what it does not know. What it does not have:
quotas, gating, webhooks, the building and running of Spaces, the viewer, conversion bots, git itself.
"""

from .running import HubDouble as HubDouble, running_hub as running_hub
