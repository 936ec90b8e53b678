"""The tests: the real ssh, docker, age and ssh-keygen against the real thing."""
