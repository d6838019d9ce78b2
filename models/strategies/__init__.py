"""Ways to adapt to a task, cheapest first. Importing this package imports none of them."""

STRATEGIES = ("head", "last_block", "finetune", "lora")  # those that are built
PLANNED = ("auto",)  # those that answer a dry run, and can't be carried out yet
ALL_STRATEGIES = ("head", "last_block", "finetune", "lora", "auto")  # those that the interface names
