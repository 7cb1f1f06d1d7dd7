"""What one image may cost a party, by the plan that it is asked to deal for or to compute."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

GIBIBYTE = 1 << 30


class PlanLimits(BaseModel):
    """Each party's own choice: it refuses a plan that costs more, before any work. For one image, under each engine.

    The defaults leave room for about three times a DenseNet-121 at 224 x 224.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    offline_bytes: Annotated[int, Field(gt=0)] = 8 * GIBIBYTE
    """Correlated randomness that is dealt, and what the data owner sends before the image is used."""
    online_bytes: Annotated[int, Field(gt=0)] = 32 * GIBIBYTE
    """Between data owner and model owner, both ways."""
    one_way_trips: Annotated[int, Field(gt=0)] = 5_000
    """Messages that wait for one another on the way from the image to the result."""
    elements: Annotated[int, Field(gt=0)] = 1 << 30
    """Of all values that are computed, those within an operation included."""
    processor_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Estimated to the safe side, for all parties together, on one core."""
    memory_bytes: Annotated[int, Field(gt=0)] = 16 * GIBIBYTE
    """Estimated to the safe side, of the party that holds most at once."""
