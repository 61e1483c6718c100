"""The engines behind `port`. A kind of engine is one folder, listed in `registry`.

Its `settings` say what may be set of it, whether it plays live, how it is asked whether it is
there, and how it is opened; they load no engine. Its `engine` draws.
"""
