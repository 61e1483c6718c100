"""Webhooks: addresses of members' own that are told what becomes of their jobs.

`registration` says what a hook may be, `webhooks` is what a member does with hooks, `deliveries`
makes one delivery of each event for each hook, and keeps what became of it, `messages` is what is
sent and when (the Standard Webhooks), `sender` sends it.
"""
