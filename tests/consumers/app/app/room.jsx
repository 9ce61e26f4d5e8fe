"use client";
import { usePresence, useRoom } from "@heartline/client/react";

export function Room({ name }) {
  const { joined } = useRoom(name);
  const people = usePresence({ room: name });
  return <p>{`${name}: ${joined ? "here" : "on the way"}, ${people.size} people`}</p>;
}
