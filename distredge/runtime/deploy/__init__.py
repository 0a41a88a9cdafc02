"""Puts providers on devices over ssh: what a device needs, its service, and the script that installs both."""
