"""Where users already train: callbacks for Lightning and transformers, a safe merge for PEFT. One file each.

Each needs its framework, which it imports when it is imported itself; nothing else of the library imports these.
"""
