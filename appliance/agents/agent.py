"""The coding agent: one task from its request to a verified answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from msgspec import structs

from appliance.agents import planner, result_builder
from appliance.agents.candidates import collapse, rounds
from appliance.agents.planner import Budget
from appliance.agents.prompting import personas, prompt
from appliance.agents.run import context_budget
from appliance.agents.run.agent_journal import Context, Journal
from appliance.agents.run.context import Opening, Work
from appliance.agents.run.plan import Plan, Shape
from appliance.agents.run.writer import Writer
from appliance.agents.text_task import write_text
from appliance.agents.verification.sandbox_harness import Confined, Runner
from appliance.config.settings import AgentSettings
from appliance.domain.models import ModelState
from appliance.domain.tasks import Task, TaskResult
from appliance.errors import DeadlineExceeded
from appliance.inference import Caller, Gateway, Route


class CodingAgent:
    """Does tasks; any number at a time.

    `sandbox_of` gives the sandbox as the user of that id may use it; without it every task
    uses `sandbox` as it is.
    """

    def __init__(
        self,
        gateway: Gateway,
        sandbox: Runner,
        settings: AgentSettings,
        sandbox_of: Callable[[int], Awaitable[Runner]] | None = None,
    ) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._settings = settings
        self._sandbox_of = sandbox_of

    async def run(self, context: Context) -> TaskResult:
        """Do the task, going on from what its journal holds of earlier attempts.

        Raises ContextLengthExceeded, UnknownModel, ModelUnavailable, ProviderFailed, Forbidden
        (no model may see the task), SandboxUnavailable and DeadlineExceeded. Cancelling it
        ends generations and runs.
        """
        request = context.task.request
        journal = Journal(context)
        # Large files take a while to read, and others wait for the loop.
        way = await asyncio.to_thread(planner.approach, request, self._sandbox.status)
        # The model that a plan names, so that all attempts use the same.
        named = journal.plan or request
        route = await self._route(context.task, named.model, named.provider)
        persona = personas.for_task(request.persona, request.task_type)
        opening = Opening(
            context=context,
            journal=journal,
            way=way,
            route=route,
            writer=Writer(self._gateway, route, _owner(context.task), request.priority),
            messages=prompt.of_request(request, persona, way.shape, way.aim),
        )
        plan = journal.plan or await self._plan(opening)
        confined = Confined(await self._sandbox_for(context.task))
        work = Work(**vars(opening), plan=plan, confined=confined)
        return await (write_text(work) if plan.shape is Shape.TEXT else _write_code(work))

    async def _sandbox_for(self, task: Task) -> Runner:
        return await self._sandbox_of(task.user_id) if self._sandbox_of else self._sandbox

    async def _route(self, task: Task, model: str | None, provider: str | None) -> Route:
        """What the name leads to, without what the task's user and labels bar.

        Whatever is asked for the task goes along such a route, and to no other model.
        """
        caller = Caller(_owner(task), task.user_id)
        return await self._gateway.route_for(model, provider, caller, task.request.labels)

    async def _plan(self, opening: Opening) -> Plan:
        request, route = opening.context.task.request, opening.route
        if route.info.state is not ModelState.READY:
            await opening.journal.progress(f"loading the model {route.model}", "load", 0)
        prompt_tokens = await opening.writer.count_tokens(opening.messages)
        # Counting has loaded the model: only now are its room and its speed known.
        info = (await self._route(opening.context.task, route.model, route.provider)).info
        max_tokens = context_budget.answer_tokens(
            request, prompt_tokens, info.context_tokens, self._settings.max_output_tokens
        )
        budget = Budget(opening.context.remaining_s(), prompt_tokens, max_tokens)
        plan = planner.plan(request, opening.way, info, self._settings, budget)
        await opening.journal.planned(plan)
        return plan


def _owner(task: Task) -> str:
    """The task's user, as the gateway names them."""
    return f"user:{task.user_id}"


async def _write_code(work: Work) -> TaskResult:
    checks = structs.replace(work.way.checks, level=work.plan.level)
    work = replace(work, way=structs.replace(work.way, checks=checks))
    outcome = await rounds.run(work)
    best = collapse.chosen(outcome.candidates, work.plan.strategy, outcome.merged)
    if best is None:
        raise DeadlineExceeded(
            "no candidate was finished before the task's deadline; "
            "give the task more time, fewer branches or fewer tokens"
        )
    if best.solution and best.solution.code:
        await work.journal.chosen(best.solution.code)
    return result_builder.of_candidates(work, outcome.candidates, best)
