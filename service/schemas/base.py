"""What all request bodies share."""

from pydantic import BaseModel, ConfigDict


class RequestBody(BaseModel):
    """JSON from a client: a misspelt field is an error, and so is "3" where a number belongs."""

    model_config = ConfigDict(extra="forbid", strict=True)
