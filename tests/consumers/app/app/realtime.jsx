"use client";
import { createClient } from "@heartline/client";
import { HeartlineProvider } from "@heartline/client/react";

const heartline = createClient("https://realtime.example.com", { autoConnect: false });

export const Realtime = ({ children }) => (
  <HeartlineProvider client={heartline}>{children}</HeartlineProvider>
);
