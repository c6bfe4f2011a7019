"""The parts of a drawing: boxes for nodes, arcs for edges. Knows sizes; places and draws nothing."""

from dataclasses import dataclass

HEAD_WIDTH, GAP_X = 57, 15
HEIGHT = {"head": 32, "group": 32, "mlp": 21, "input": 22, "logits": 22}
GUTTER, MARGIN = 64, 14  # left of the boxes: layer names; around everything
PORT_OFFSET = 19.0


@dataclass(frozen=True)
class Box:
    """A node as drawn: centre `x`, top `y`. `ports` are those that the drawing gives it a cell for."""

    name: str
    kind: str  # input, head, group, mlp, logits
    layer: int
    ports: tuple[str, ...] = ()
    x: float = 0.0
    y: float = 0.0
    width: float = HEAD_WIDTH

    @property
    def height(self) -> int:
        return HEIGHT[self.kind]

    @property
    def is_bar(self) -> bool:
        return self.kind in ("input", "logits")

    @property
    def row(self) -> tuple[int, int]:
        return self.layer, {"input": 0, "group": 1, "head": 2, "mlp": 3, "logits": 4}[self.kind]

    def port_x(self, port: str | None) -> float:
        if port is None or port not in self.ports or len(self.ports) == 1:
            return self.x
        if len(self.ports) == 2:
            return self.x + (PORT_OFFSET * 0.75 if port == self.ports[1] else -PORT_OFFSET * 0.75)
        return self.x + PORT_OFFSET * (self.ports.index(port) - 1)


@dataclass(frozen=True)
class Arc:
    """A drawn edge, from box `start` to box `end`, or a group's link to a head it feeds (`edge` None)."""

    edge: int | None
    start: int
    end: int
    port: str | None
    strength: float
    points: tuple[float, ...] = ()  # x0 y0 of the start, x of both control points, x1 y1 of the end
