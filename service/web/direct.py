"""Routes for what is asked for most, past what FastAPI does anew in every request."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.web.dependencies import parts_of, tenant_of


class DirectRoute(APIRoute):
    """Calls its endpoint itself where a request has no query string, so that each option has its default.

    FastAPI looks through the types of all parameters in every request, for 0.2 ms; it still does so, with all
    its checks, where an option is given. OpenAPI knows no difference. For endpoints that ask for `request`,
    `parts`, `tenant`, names in the path and options in the query, and that make their own response.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        checked = super().get_route_handler()

        async def handler(request: Request) -> Response:
            if request.scope["query_string"]:
                return await checked(request)
            parts, tenant = await parts_of(request), await tenant_of(request)
            answer: Response = await self.endpoint(
                request=request, parts=parts, tenant=tenant, **request.path_params
            )
            return answer

        return handler


def json_response(body: BaseModel, status: int, headers: dict[str, str] | None = None) -> Response:
    """As FastAPI would answer with a model, without what isn't set, and without looking at it once more."""
    return Response(
        body.model_dump_json(exclude_unset=True), status, headers=headers, media_type="application/json"
    )
