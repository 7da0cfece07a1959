"""Secrets do not leave the host in a command line; everything else stays readable."""

from __future__ import annotations

import time

import pytest

from sematext_agent.docker_collector.masking import MASK, mask


@pytest.mark.parametrize(
    "command",
    [
        "mysql -uroot -pS3cret shop",
        "mysqldump --user root -pS3cret",
        "mysql --password=S3cret",
        "mysqladmin --password S3cret ping",
        "sh -c MYSQL_PWD=S3cret mysql shop",
        "env PGPASSWORD=S3cret psql -U postgres",
        "psql postgres://app:S3cret@db:5432/shop",
        "redis-cli -a S3cret ping",
        "sshpass -p S3cret ssh host",
        "sshpass -pS3cret ssh host",
        "curl -u admin:S3cret http://localhost/",
        "curl --user=admin:S3cret http://localhost/",
        "curl -H Authorization: Bearer S3cret http://localhost/",
        "curl -H 'Authorization: Basic S3cret' http://localhost/",
        "curl -H X-Api-Key: S3cret http://localhost/",
        "curl https://user:S3cret@example.com/",
        "vault login token=S3cret",
        "app --api-key S3cret --verbose",
        "app --token=S3cret",
        'app --json {"client_secret":"S3cret"}',
        "AWS_SECRET_ACCESS_KEY=S3cret aws s3 ls",
        "app --private-key S3cret",
        "openssl rsa -passin pass:S3cret",
        "app -passphrase S3cret",
    ],
)
def test_a_secret_is_masked(command: str) -> None:
    assert "S3cret" not in mask(command)
    assert MASK in mask(command)


@pytest.mark.parametrize(
    "command",
    [
        "/bin/sh -c echo hello: world",
        "ps -p 1",
        "mkdir -p /var/lib/app",
        "cp -a /from /to",
        "docker run -u 1000:1000 nginx",
        "curl -f http://localhost:8080/health",
        "psql postgres://app@db:5432/shop",
        "mysql -P 3306 shop",
        "cat /run/secrets/token",
        "tail -f /var/log/auth.log",
        "ls ",
    ],
)
def test_text_without_a_secret_stays(command: str) -> None:
    assert mask(command) == command


def test_masking_takes_linear_time() -> None:
    """A command line is untrusted text, as long as its writer likes."""
    began = time.process_time()
    for text in ("mysql ", "curl -u ", "password", "--password ", "=:", "a", "x://a:"):
        mask(text * 20_000)
    assert time.process_time() - began < 5
