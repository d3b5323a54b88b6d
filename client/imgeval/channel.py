"""A Connection becomes a gRPC channel. Round-robin and retries are gRPC's own, asked for in its service config."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import ssl
from pathlib import Path

import grpc

from imgeval.connection import Connection
from imgeval.errors import InvalidInputError, ServerUnavailableError

# Pings notice a peer that vanished without closing. A server that is not told otherwise takes one every 5 minutes while
# it is computing, and ends connections with more: a request of minutes would fail with "too many pings".
KEEPALIVE_TIME_MS = 330_000
KEEPALIVE_TIMEOUT_MS = 10_000
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own upper limit

# Pauses between attempts are 0.2, 0.6, 1.8 and 5.4 s, each with gRPC's jitter of a fifth: the default of four attempts
# outlasts a restart of 2 s. gRPC by itself waits longer and longer before it connects again, up to 2 minutes, and fails
# what is asked meanwhile: a server would be back and its client say for minutes that it is not.
FIRST_PAUSE_S = 0.2
PAUSE_FACTOR = 3
MAX_PAUSE_S = 6.0
FIRST_RECONNECT_MS = 200
MAX_RECONNECT_MS = 2_000
RECOVERY_S = 3.0  # to wait for a server that was there before: longer than the pause between two connections
SERVICE = "inference.GRPCInferenceService"  # Triton's
COMPRESSION = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}


def open_channel(connection: Connection) -> grpc.Channel:
    """A channel, which connects when it is first used.

    Raises:
        InvalidInputError: certificates that cannot be read or do not go together, addresses of both IP versions.
        ServerUnavailableError: one of several host names is not known.
    """
    target, settings = _target(connection.addresses), list(_settings(connection).items())
    compression = COMPRESSION.get(connection.compression)
    if connection.secure:
        return grpc.secure_channel(target, _credentials(connection), settings, compression)
    return grpc.insecure_channel(target, settings, compression)


def _target(addresses: tuple[str, ...]) -> str:
    """What gRPC takes for one address, and for several, which it wants as numbers of one IP version."""
    if len(addresses) == 1:
        return addresses[0]  # a name is looked up by gRPC, again and again
    split = [(host.strip("[]"), port) for host, _, port in (address.rpartition(":") for address in addresses)]
    versions = {ipaddress.ip_address(host).version for host, _ in split if _is_ip(host)}
    if len(versions) > 1:
        raise InvalidInputError("url", f"got {','.join(addresses)}; allowed: IPv4 or IPv6, not both")
    family = socket.AF_INET6 if versions == {6} else socket.AF_INET
    found: list[str] = []
    for host, port in split:
        try:
            infos = socket.getaddrinfo(host, int(port), family, socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # a part of a name that is longer than 63 characters
            raise ServerUnavailableError(f"no server at {host}:{port}: {error}") from error
        found += [f"[{info[4][0]}]:{port}" if family == socket.AF_INET6 else f"{info[4][0]}:{port}" for info in infos]
    return ("ipv6:" if family == socket.AF_INET6 else "ipv4:") + ",".join(dict.fromkeys(found))


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _settings(connection: Connection) -> dict[str, str | int]:
    settings: dict[str, str | int] = {
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
        "grpc.initial_reconnect_backoff_ms": FIRST_RECONNECT_MS,
        "grpc.max_reconnect_backoff_ms": MAX_RECONNECT_MS,
        # By default what is larger than 256 KiB, such as an image, is not kept and so never sent again.
        "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
        "grpc.service_config": json.dumps(_service_config(connection.max_attempts)),
    }
    if connection.local:
        settings["grpc.enable_http_proxy"] = 0  # a proxy from the environment cannot reach this machine's loopback
    if connection.server_name and connection.secure:
        settings["grpc.ssl_target_name_override"] = connection.server_name
    elif len(connection.addresses) > 1:
        settings["grpc.default_authority"] = connection.addresses[0]  # not the whole list, which is no host
    return settings


def _service_config(max_attempts: int) -> dict[str, object]:
    config: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if max_attempts > 1:
        # Only inference, which changes nothing on the server, and only where no answer came. That a server is not there
        # at all is found by the first question, ModelReady, which therefore is asked once.
        retry = {
            "maxAttempts": max_attempts,
            "initialBackoff": f"{FIRST_PAUSE_S}s",
            "maxBackoff": f"{MAX_PAUSE_S}s",
            "backoffMultiplier": PAUSE_FACTOR,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        config["methodConfig"] = [{"name": [{"service": SERVICE, "method": "ModelInfer"}], "retryPolicy": retry}]
    return config


def _credentials(connection: Connection) -> grpc.ChannelCredentials:
    """Certificates from their files. gRPC reports broken ones as servers out of reach, so `ssl` reads them first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    roots = _pem("ca_cert", connection.ca_cert)
    if roots is not None:
        try:
            context.load_verify_locations(cadata=roots.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInputError("ca_cert", f"{connection.ca_cert} holds no PEM certificates: {error}") from error
    chain, key = _pem("client_cert", connection.client_cert), _pem("client_key", connection.client_key)
    if connection.client_cert is not None:
        try:
            context.load_cert_chain(connection.client_cert, connection.client_key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            files = f"{connection.client_cert} and {connection.client_key}"
            raise InvalidInputError(
                "client_cert", f"{files} are no PEM certificate and its key without a password: {error}"
            ) from error
    return grpc.ssl_channel_credentials(roots, key, chain)


def _pem(field: str, path: str | os.PathLike[str] | None) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise InvalidInputError(field, f"{path} cannot be read: {error}") from error


def _no_password() -> str:
    """Instead of asking for one on the terminal."""
    raise ValueError("the key has a password")
