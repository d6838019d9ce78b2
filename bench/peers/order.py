"""What a peer is told by its environment: it has no flags of ours where its own command starts it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BATCH = 8  # photos in a pass, for every contender


@dataclass(frozen=True, slots=True)
class Order:
    backbone: str
    heads: tuple[Path, ...]  # npz, of a task each, in their order

    @classmethod
    def of_environment(cls) -> Self:
        heads = os.environ["PEER_HEADS"].split(os.pathsep)
        return cls(os.environ["PEER_BACKBONE"], tuple(Path(head) for head in heads))

    @property
    def environment(self) -> dict[str, str]:
        return {"PEER_BACKBONE": self.backbone, "PEER_HEADS": os.pathsep.join(map(str, self.heads))}
