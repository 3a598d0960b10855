"""The peers' ``asgi.py``: HTTP to Django, WebSocket to the consumer of Channels' tutorial."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qs

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.peers.django_site")


class ChatConsumer(AsyncWebsocketConsumer):
    """Part 3 of the tutorial, in its own words; and a group for each user beside the room."""

    async def connect(self) -> None:
        user = parse_qs(self.scope["query_string"].decode())["user"][0]
        self.room_group_name = "chat_everyone"
        self.user_group_name = f"chat_user_{user}"
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)
        await self.channel_layer.group_add(self.user_group_name, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code: int) -> None:
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)
        await self.channel_layer.group_discard(self.user_group_name, self.channel_name)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps({"message": event["message"]}))


application = ProtocolTypeRouter({"http": get_asgi_application(), "websocket": ChatConsumer.as_asgi()})
