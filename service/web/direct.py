"""Routes for what is asked for most, past what FastAPI does anew in every request."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import to_json

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


def json_response(body: Mapping[str, object], status: int, headers: dict[str, str] | None = None) -> Response:
    """As FastAPI would answer, without looking at each value once more."""
    data = to_json(body, inf_nan_mode="null")
    return Response(data, status, headers=headers, media_type="application/json")
