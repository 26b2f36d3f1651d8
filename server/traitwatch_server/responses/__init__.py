"""Puts scores into vLLM's HTTP responses, and takes the `traits` field out of the requests.

- `middleware`: the ASGI middleware; it reads each request, and rewrites the response as vLLM sends it.
- `request_body`: reads and rewrites the body of a request.
- `selection`: what a response carries, by the request's `traits` field and the server's default.
- `scored_request`: a request that is scored, and the calls of the engine that it makes.
- `endpoints`: where in the answers of each endpoint the scores go.
- `attach`: adds the scores to a JSON body or to the events of a stream.
- `answer_scores`: the scores of one answer as JSON fields.
- `long_lists`: JSON of long lists, encoded in parts.
- `schema`: the types of our fields in requests and answers, as `/openapi.json` shows them.
- `refusals`: the answer to a request that is refused.

Begin with `TraitsMiddleware.__call__`.
"""
