"""Floods of wrong passwords (F73): the account's user still logs in and is served."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.bystander import ADDRESS, PASSWORD, under_attack
from tests.support.server_process import ServerProcess

LOGIN = "/api/v1/auth/login"
DEADLINE_S = 60.0
GUESSES = 16


def log_in(server: ServerProcess, name: str, password: str, address: str) -> httpx.Response:
    body = {"username": name, "password": password}
    headers = {"X-Forwarded-For": address}
    return httpx.post(f"{server.url}{LOGIN}", json=body, headers=headers, timeout=DEADLINE_S)


def test_account_when_many_addresses_guess_its_password_then_its_user_logs_in(
    attacked: ServerProcess, bystander_key: str
) -> None:
    assert log_in(attacked, "bystander", PASSWORD, ADDRESS).status_code == 200

    def guess(number: int) -> int:
        name = f"nobody-{number}" if number % 10 == 0 else "bystander"
        return log_in(attacked, name, "wrong", f"203.0.113.{number % 30}").status_code

    with under_attack(attacked, bystander_key), ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(guess, range(GUESSES)))
        during = log_in(attacked, "bystander", PASSWORD, ADDRESS).status_code
    assert statuses == {401, 429}
    assert during == 200
    assert log_in(attacked, "bystander", PASSWORD, ADDRESS).status_code == 200
