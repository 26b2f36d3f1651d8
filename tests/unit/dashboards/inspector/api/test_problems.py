"""Messages about a server that cannot be used. Each message has the next step."""

import httpx
import httpx2
import openai

from traitwatch_dashboards.inspector.api.problems import message_of, problem, problem_of_status

URL = "http://server:8000"


class TestProblems:
    def test_each_message_has_the_next_step(self) -> None:
        request = httpx2.Request("POST", URL)
        refused = httpx2.Response(401, request=request, json={"error": {"message": "no"}})
        messages = {
            "gone": problem(httpx.ConnectError("refused"), URL),
            "gone too": problem(openai.APIConnectionError(request=request), URL),
            "key": problem(openai.AuthenticationError("no", response=refused, body=None), URL),
            "slow": problem(httpx.ReadTimeout("slow"), URL),
            "lost": problem(httpx2.RemoteProtocolError("closed"), URL, answering=True),
        }
        assert "traitwatch serve" in messages["gone"]
        assert "traitwatch serve" in messages["gone too"]
        assert "--api-key" in messages["key"]
        assert "try again" in messages["slow"]
        assert "The text so far is kept" in messages["lost"]

    def test_the_servers_message_is_passed_on(self) -> None:
        assert message_of('{"error": {"message": "too long"}}') == "too long"
        assert message_of('{"detail": "Not Found"}') == "Not Found"
        assert message_of("plain") == "plain"
        assert "too long" in problem_of_status(400, "too long", URL)
        assert "500" in problem_of_status(500, "", URL)
