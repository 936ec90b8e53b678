"""The life of one session, top to bottom: authorise, find, register, record, run, relay, explain."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import structlog

from bastion import descriptors
from bastion.config import GrantSettings, SessionsSettings
from bastion.errors import BastionError, Refused, SessionEnded
from bastion.files.hints import hint_for
from bastion.files.observed import Observed
from bastion.files.serving import as_files, reach, serve
from bastion.log import session_line
from bastion.metrics import Metrics
from bastion.model import Channel, Exit, FileAccess, Identity, Name, Request, Target, now
from bastion.policy import Policy
from bastion.refusals import Refusals
from bastion.relay import relay
from bastion.runtimes import Runtime
from bastion.sessions import LiveSession, Sessions
from bastion.sessions.timers import timed
from bastion.targets import Targets
from bastion.transcripts import Recorder, Transcripts

GRANT_CHECK_SECONDS = 2.0

log = structlog.get_logger(__name__)


class Door(Channel, Protocol):
    """One SSH channel, as the gateway sees it."""

    def exit(self, status: Exit) -> None:
        """Tell the client how it ended and close the channel."""
        ...

    def when_ended(self, callback: Callable[[BastionError], None]) -> None:
        """Call back when the client goes before `exit`, or the connection is ended; at once if it has gone."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says of who may do what where, and how long: all of it replaced at once by a reload."""

    policy: Policy
    targets: Targets
    limits: SessionsSettings
    notice: bool


@dataclass(slots=True)
class _Granted:
    """A live session's grant; `judge` is the policy, with its expired grants, that allowed the session last."""

    identity: Identity
    request: Request
    target: Target
    access: FileAccess | None
    judge: tuple[Policy, frozenset[int]] | None = None


class Gateway:
    """Turns a request of a known person into a session in a container."""

    def __init__(
        self,
        rules: Rules,
        *,
        sessions: Sessions,
        transcripts: Transcripts,
        runtimes: Mapping[str, Runtime],
        metrics: Metrics,
    ) -> None:
        self._rules = rules
        self._sessions = sessions
        self._transcripts = transcripts
        self._runtimes = runtimes
        self._metrics = metrics
        self.refusals = Refusals(metrics, self.note)
        self._granted: dict[LiveSession, _Granted] = {}

    @property
    def rules(self) -> Rules:
        """What it judges by at present."""
        return self._rules

    def replace_rules(self, rules: Rules) -> None:
        """Judge by new rules from now on; sessions that they do not allow are ended."""
        self._rules = rules
        self._sessions.limits = rules.limits
        self._review()

    async def watch_grants(self) -> None:
        """For ever: end the sessions whose grant has expired."""
        while True:
            await asyncio.sleep(GRANT_CHECK_SECONDS)
            self._review()

    async def serve(self, identity: Identity, request: Request, local_address: str, channel: Door) -> None:
        """Carry the request out, or tell the client in one line why not and in the next what to do."""
        try:
            asked, target, grant = await self.find(identity, request, local_address)
            descriptors.check_room()
            access = self._rules.policy.file_access(identity, target) if asked.kind == "subsystem" else None
            async with self._sessions.open(identity, request, target, grant) as session:
                self._granted[session] = _Granted(identity, asked, target, access)
                try:
                    await self._run(session, request, target, access, channel)
                finally:
                    del self._granted[session]
        except Exception as error:
            refusal = _known(error, request.uid)
            explain(channel, refusal, request.uid)
            await self.refusals.record(identity, request, refusal)

    async def find(
        self, identity: Identity, request: Request, local_address: str
    ) -> tuple[Request, Target, GrantSettings]:
        """Authorise the request, then find the one container it means; return them, the name with its stack, and why.

        Raises:
            Refused: policy says no.
            NoSuchTarget: nothing of that name runs.
            RuntimeUnreachable: the engine does not answer.
        """

        def may_enter(stack: str, service: str) -> bool:
            return rules.policy.may_enter(identity, stack, service)

        rules = self._rules
        name = await rules.targets.choose_stack(
            request.name,
            identity,
            local_address,
            request.environment,
            may_enter,
            literal_stacks=rules.policy.literal_stacks(identity),
        )
        asked = self._as_granted(rules.policy, identity, replace(request, name=name))
        rules.policy.authorize(identity, asked)
        target = await rules.targets.resolve(name, may_enter)
        # Again, since the name may have been a container's of a service that another grant is about.
        grant = rules.policy.authorize(identity, asked, target)
        rules.policy.admit(target)
        return (
            asked,
            replace(
                target,
                user=grant.user or target.user,
                toolbox=rules.policy.allows(identity, "toolbox", target),
            ),
            grant,
        )

    def may_enter(self, identity: Identity, name: Name) -> bool:
        """Tell whether any grant lets the person do anything in what the name can mean, before any engine is asked."""
        policy, replica = self._rules.policy, name.replica()
        if name.stack is None:
            return policy.literal_stacks(identity) != set()
        services = (name.service, *([replica[0]] if replica else []))
        return any(policy.may_enter(identity, name.stack, service) for service in services)

    async def note(self, event: str, **facts: object) -> None:
        """Write a line into the ledger; that it could not be written is logged."""
        try:
            await self._transcripts.ledger.append(event, **facts)
        except BastionError as error:
            log.warning("not in the ledger", line=event, reason=error.public)

    def _review(self) -> None:
        """End the sessions that the policy no longer allows; judge a session again only when the result may differ.

        Each session is judged here once after its opening too, since the rules may have changed meanwhile.
        """
        policy = self._rules.policy
        judge = policy, policy.expired()
        for session, granted in list(self._granted.items()):
            if granted.judge == judge:
                continue
            granted.judge = judge
            try:
                policy.authorize(granted.identity, granted.request, granted.target)
                policy.admit(granted.target)
            except Refused as refusal:
                session.end(SessionEnded(f"the grant for this session is gone: {refusal.public}", refusal.hint))
                continue
            if granted.access is not None and policy.file_access(granted.identity, granted.target) != granted.access:
                session.end(SessionEnded("the grants for files have changed", "connect again"))

    @staticmethod
    def _as_granted(policy: Policy, identity: Identity, asked: Request) -> Request:
        """Return a command of scp's old protocol as a request for files, where a grant is about those."""
        if (for_files := as_files(asked)) is None:
            return asked
        try:
            policy.authorize(identity, for_files)
        except Refused:
            return asked
        return for_files

    async def _run(
        self, session: LiveSession, request: Request, target: Target, access: FileAccess | None, channel: Door
    ) -> None:
        began = time.monotonic()
        told: Exception | None = None
        channel.when_ended(session.end)
        session.tell, session.terminal = channel.say, request.terminal
        limits = self._rules.limits
        try:
            async with AsyncExitStack() as cleanup:
                try:
                    with session.interruptible():
                        session.update(state="provisioning")
                        recorder = await cleanup.enter_async_context(
                            self._transcripts.open(session.session, request, target, on_failure=session.end)
                        )
                        session.transcript_bytes = recorder.stored_bytes
                        carry_out = await cleanup.enter_async_context(
                            self._started(session, request, target, access=access, channel=channel, recorder=recorder)
                        )
                        session.update(state="active", started_at=now())
                        self._greet(channel, request, target)
                        async with timed(
                            session,
                            idle=limits.idle_timeout if request.terminal else 0,
                            longest=limits.max_duration,
                            warn=channel.say,
                        ):
                            status = await carry_out()
                    session.update(exit_status=status.status, reason="the program ended")
                    if (hint := hint_for(request.command or "", status)) is not None:
                        channel.say(hint)
                    channel.exit(status)
                except Exception as error:
                    # Here and not further out: the client is told before the clean-up, which may take seconds.
                    told = error
                    failure = _known(error, request.uid)
                    session.update(exit_status=failure.exit_status, reason=failure.public)
                    explain(channel, failure, request.uid)
                    raise
        except Exception as error:
            if error is not told:  # the clean-up's own
                session.update(reason=_known(error, request.uid).public)
        finally:
            session.update(state="terminated", ended_at=now())
            self._account(session, request, time.monotonic() - began)

    @asynccontextmanager
    async def _started(
        self,
        session: LiveSession,
        request: Request,
        target: Target,
        *,
        access: FileAccess | None,
        channel: Door,
        recorder: Recorder,
    ) -> AsyncIterator[Callable[[], Awaitable[Exit]]]:
        """Start what was asked for; give what carries it out to its end."""
        runtime = self._runtimes[target.runtime]
        if access is None:
            async with runtime.exec(target, request) as program:
                yield partial(relay, channel, program, session, recorder.record)
            return
        async with reach(runtime, target, request, access) as reached:
            await recorder.mark(f"files by {reached.way}")
            if reached.program is not None:
                async with Observed(session, recorder.record) as observed:
                    yield partial(relay, channel, reached.program, session, observed.record, observed.publish)
            else:
                yield partial(serve, channel, reached, request, access=access, session=session, record=recorder.record)

    def _greet(self, channel: Door, request: Request, target: Target) -> None:
        if self._rules.notice and request.terminal is not None and request.kind == "shell":
            pod = f"{target.pod_name}+" if target.pod_name else ""  # as one may write it in a name
            channel.say(f"bastion: session {request.uid} in {pod}{target.container_name} is recorded")

    def _account(self, live: LiveSession, request: Request, seconds: float) -> None:
        self._metrics.session_ended(live.session, bytes_in=live.bytes_in, bytes_out=live.bytes_out)
        session_line(
            live.session,
            kind=request.kind,
            bytes_in=live.bytes_in,
            bytes_out=live.bytes_out,
            seconds=seconds,
            transcript=f"{request.uid}.cast.age",
        )


def explain(channel: Door, error: BastionError, uid: str) -> None:
    """Say what went wrong and what to do, and close the channel with the error's exit status."""
    channel.say(f"bastion: error: {error.public} (session {uid})")
    if error.hint:
        channel.say(f"bastion: hint: {error.hint}")
    channel.exit(Exit(error.exit_status))


def _known(error: Exception, uid: str) -> BastionError:
    """Return the error itself when it is one of ours; an unknown one is logged and shown as "internal error" only."""
    if isinstance(error, BastionError):
        if error.detail:
            log.warning("failure", uid=uid, code=error.code, detail=error.detail)
        return error
    log.error("internal error", uid=uid, exc_info=error)
    return BastionError("internal error", "give whoever runs this bastion the session's number")
