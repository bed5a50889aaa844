from .launching import launch as launch
from .page import build_demo as build_demo
from .settings import SpaceSettings as SpaceSettings, read_settings as read_settings
