"""Users and their credentials: accounts, login, sessions, API keys, permissions.

service.py          Accounts: the parts below, built and closed together; `authenticate`
users.py            UserAccounts: add, list, change password and plan, disable
validation.py       rules for usernames, emails, passwords and names
permissions.py      scopes of roles and keys, and the checks that require one
login.py            PasswordLogin: throttle, verification, new session
login_throttle.py   LoginThrottle: delays logins after failures
proxy_hint.py       ProxyHint: logs that failures seem to come through an unlisted proxy
passwords.py        Passwords: Argon2id hashing in threads
sessions.py         Sessions: open, rotate refresh tokens, authenticate, end
tokens.py           form and hashing of credentials; AccessTokens signs and verifies JWTs
signing_secret.py   the secret that signs access tokens
api_keys.py         ApiKeys: create, list, revoke, authenticate
api_key_rules.py    expiry, limit per user, limits inherited from a parent key
dev_keys.py         DevKeys: short-lived keys for callers on this machine
key_usage.py        KeyUsage: counts the uses of keys in memory
principal_cache.py  PrincipalCache: principals by credential, for a few seconds
maintenance.py      AccountMaintenance: stores uses, deletes expired credentials
"""
