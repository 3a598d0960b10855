// Socket.IO with Redis behind it: one room for everyone, one for each user.
import { createServer } from "node:http";
import { createClient } from "redis";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], serveClient: false });
io.on("connection", (socket) => {
  socket.join(["everyone", socket.handshake.query.user]);
  socket.emit("ready");
});

const redis = createClient({ url: process.env.REDIS_URL });
await redis.connect();
await redis.pSubscribe("events:*", (message, channel) => {
  io.to(channel.slice("events:".length)).emit("notification", JSON.parse(message));
});
http.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
