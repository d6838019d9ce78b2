"""Ways to adapt to a task, cheapest first. Importing this package imports none of them."""

STRATEGIES = ("head", "stages", "last_block", "lora", "finetune", "auto")
