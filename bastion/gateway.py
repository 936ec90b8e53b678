"""The life of one session, top to bottom: authorise, find, register, record, run, relay, explain."""

import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Protocol

import structlog

from bastion.config import SessionsSettings
from bastion.errors import BastionError
from bastion.log import session_line
from bastion.metrics import Metrics
from bastion.model import Exit, Identity, Request, Target, now
from bastion.policy import Policy
from bastion.relay import Channel, relay
from bastion.runtimes import Runtime
from bastion.sessions import LiveSession, Sessions
from bastion.sessions.timers import timed
from bastion.targets import Targets
from bastion.transcripts import Transcripts

log = structlog.get_logger(__name__)


class Door(Channel, Protocol):
    """One SSH channel, as the gateway sees it: the relay's channel, and the bastion's own words to the client."""

    def say(self, line: str) -> None:
        """Show the client one line of the bastion's own, on standard error."""
        ...

    def exit(self, status: Exit) -> None:
        """Tell the client how it ended and close the channel."""
        ...

    def when_ended(self, callback: Callable[[BastionError], None]) -> None:
        """Call back when the client goes before `exit`, or the connection is ended; at once if it has gone."""
        ...


class Gateway:
    """Turns a request of a known person into a session in a container."""

    def __init__(
        self,
        *,
        policy: Policy,
        targets: Targets,
        sessions: Sessions,
        transcripts: Transcripts,
        runtimes: Mapping[str, Runtime],
        metrics: Metrics,
        limits: SessionsSettings,
        notice: bool,
    ) -> None:
        self._policy = policy
        self._targets = targets
        self._sessions = sessions
        self._transcripts = transcripts
        self._runtimes = runtimes
        self._metrics = metrics
        self._limits = limits
        self._notice = notice

    async def serve(self, identity: Identity, request: Request, local_address: str, channel: Door) -> None:
        """Carry the request out, or tell the client in one line why not and in the next what to do."""
        try:
            target = await self.find(identity, request, local_address)
            async with self._sessions.open(identity, request, target) as session:
                await self._run(session, request, target, channel)
        except Exception as error:
            refusal = _known(error, request.uid)
            explain(channel, refusal, request.uid)
            await self._record_refusal(identity, request, refusal)

    async def find(self, identity: Identity, request: Request, local_address: str) -> Target:
        """Authorise the request, then find the one container it means.

        Raises:
            Refused: policy says no.
            NoSuchTarget: nothing of that name runs.
            RuntimeUnreachable: the engine does not answer.
        """

        def may_enter(stack: str, service: str) -> bool:
            return self._policy.may_enter(identity, stack, service)

        name = await self._targets.choose_stack(
            request.name,
            identity,
            local_address,
            request.environment,
            may_enter,
            literal_stacks=self._policy.literal_stacks(identity),
        )
        asked = replace(request, name=name)
        self._policy.authorize(identity, asked)
        target = await self._targets.resolve(name, may_enter)
        # Again, since the name may have been a container's of a service that another grant is about.
        grant = self._policy.authorize(identity, asked, target)
        self._policy.admit(target)
        return replace(target, user=grant.user or target.user)

    async def _run(self, session: LiveSession, request: Request, target: Target, channel: Door) -> None:
        began = time.monotonic()
        told: Exception | None = None
        channel.when_ended(session.end)
        try:
            async with AsyncExitStack() as cleanup:
                try:
                    with session.interruptible():
                        session.update(state="provisioning")
                        recorder = await cleanup.enter_async_context(
                            self._transcripts.open(session.session, request, target, on_failure=session.end)
                        )
                        program = await cleanup.enter_async_context(
                            self._runtimes[target.runtime].exec(target, request)
                        )
                        session.update(state="active", started_at=now())
                        self._greet(channel, request, target)
                        async with timed(
                            session,
                            idle=self._limits.idle_timeout if request.terminal else 0,
                            longest=self._limits.max_duration,
                            warn=channel.say,
                        ):
                            status = await relay(channel, program, session, recorder.record)
                    session.update(exit_status=status.status, reason="the program ended")
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

    def _greet(self, channel: Door, request: Request, target: Target) -> None:
        if self._notice and request.terminal is not None and request.kind == "shell":
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

    async def _record_refusal(self, identity: Identity, request: Request, refusal: BastionError) -> None:
        self._metrics.refused(refusal.code)
        facts = {
            "uid": request.uid,
            "user": identity.user,
            "key_fingerprint": identity.key_fingerprint,
            "client_address": identity.client_address,
            "name": f"{request.name.service}@{request.name.stack or ''}",
            "kind": request.kind,
            "code": refusal.code,
        }
        log.info("refused", **facts, reason=refusal.public)
        try:
            await self._transcripts.ledger.append("refused", **facts)
        except BastionError as error:
            log.warning("the refusal is not in the ledger", uid=request.uid, reason=error.public)


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
