"""The coding agent: carries out one task, from its request to a verified answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from msgspec import structs

from appliance.agents import planner, result_builder
from appliance.agents.candidates import collapse, rounds
from appliance.agents.planner import Budget
from appliance.agents.prompting import personas, prompt
from appliance.agents.run import context_budget
from appliance.agents.run.agent_journal import AgentJournal
from appliance.agents.run.execution_plan import ExecutionPlan, Shape
from appliance.agents.run.run_context import RunContext, RunSetup
from appliance.agents.run.writer import Writer
from appliance.agents.text_task import run_text_task
from appliance.agents.verification.sandbox_harness import Runner, SandboxHarness
from appliance.config.settings import AgentSettings
from appliance.domain.models import ModelState
from appliance.domain.tasks import Priority, Task, TaskRequest, TaskResult
from appliance.errors import DeadlineExceeded
from appliance.inference import Caller, Gateway, Route
from appliance.scheduler.context import TaskContext


class CodingAgent:
    """Carries out tasks, any number at a time.

    `sandbox_for_user` returns the sandbox with the limits of the user of that id, for runs of that
    priority; without it every task uses `sandbox`.
    """

    def __init__(
        self,
        gateway: Gateway,
        sandbox: Runner,
        settings: AgentSettings,
        sandbox_for_user: Callable[[int, Priority], Awaitable[Runner]] | None = None,
    ) -> None:
        self._gateway = gateway
        self._sandbox = sandbox
        self._settings = settings
        self._sandbox_for_user = sandbox_for_user

    async def run(self, task_context: TaskContext) -> TaskResult:
        """Carry out the task, continuing from what earlier attempts recorded in its journal.

        Raises ContextLengthExceeded, UnknownModel, ModelUnavailable, ProviderFailed, Forbidden
        (no model may see the task), SandboxUnavailable and DeadlineExceeded. Cancelling the call
        ends generations and sandbox runs.
        """
        task = task_context.task
        request = task.request_as(TaskRequest)
        journal = AgentJournal(task_context)
        # In a thread: parsing large files takes long enough to block the event loop.
        spec = await asyncio.to_thread(planner.derive_spec, request, self._sandbox.status)
        # A plan of an earlier attempt names the model, so that all attempts use the same.
        model_choice = journal.plan or request
        route = await self._route(task, model_choice.model, model_choice.provider)
        persona = personas.choose_persona(request.persona, request.task_type)
        shared_system = personas.shared_system_message(persona, request.instructions)
        setup = RunSetup(
            task_context=task_context,
            journal=journal,
            spec=spec,
            route=route,
            writer=Writer(
                self._gateway,
                route,
                _owner_of(task),
                priority=request.priority,
                shared_system=shared_system,
                calls=task_context.calls,
            ),
            messages=prompt.build_request(request, persona, spec.shape, spec.target),
        )
        plan = journal.plan or await self._plan(setup)
        harness = SandboxHarness(await self._select_sandbox(task))
        context = RunContext(**vars(setup), plan=plan, harness=harness)
        if plan.shape is Shape.TEXT:
            return await run_text_task(context)
        return await _run_code_task(context)

    async def _select_sandbox(self, task: Task) -> Runner:
        if self._sandbox_for_user is None:
            return self._sandbox
        return await self._sandbox_for_user(task.user_id, task.request_as(TaskRequest).priority)

    async def _route(self, task: Task, model: str | None, provider: str | None) -> Route:
        """The route to the model, without providers that the task's user or labels rule out.

        Every request for the task takes such a route, and goes to no other model.
        """
        caller = Caller(_owner_of(task), task.user_id)
        return await self._gateway.route_for(
            model, provider, caller, task.request_as(TaskRequest).labels
        )

    async def _plan(self, setup: RunSetup) -> ExecutionPlan:
        task, route = setup.task_context.task, setup.route
        request = task.request_as(TaskRequest)
        if route.info.state is not ModelState.READY:
            await setup.journal.record_progress(f"loading the model {route.model}", "load", 0)
        prompt_tokens = await setup.writer.count_tokens(setup.messages)
        # Counting has loaded the model: only now are its context length and speed known.
        info = (await self._route(task, route.model, route.provider)).info
        max_tokens = context_budget.compute_answer_tokens(
            request, prompt_tokens, info.context_tokens, self._settings.max_output_tokens
        )
        budget = Budget(setup.task_context.remaining_s(), prompt_tokens, max_tokens)
        plan = planner.make_plan(request, setup.spec, info, self._settings, budget)
        await setup.journal.record_plan(plan)
        return plan


def _owner_of(task: Task) -> str:
    """The task's user as the owner of cached prefixes and of a share in the gateway."""
    return f"user:{task.user_id}"


async def _run_code_task(context: RunContext) -> TaskResult:
    checks = structs.replace(context.spec.checks, level=context.plan.level)
    context = replace(context, spec=structs.replace(context.spec, checks=checks))
    result = await rounds.run_rounds(context)
    best = collapse.choose_answer(result.candidates, context.plan.strategy, result.synthesized)
    if best is None:
        raise DeadlineExceeded(
            "no candidate was finished before the task's deadline; "
            "give the task more time, fewer branches or fewer tokens"
        )
    if best.solution and best.solution.code:
        await context.journal.record_code(best.solution.code)
    return result_builder.build_code_result(context, result.candidates, best)
