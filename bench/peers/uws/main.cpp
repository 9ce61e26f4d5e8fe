// uWebSockets in C++, by itself: plain frames with the least work there can be.
//
// Frames: `e…` comes back, `s` subscribes and comes back, `p…` goes to every subscriber.
#include <cstdlib>
#include <iostream>
#include <string_view>

#include "App.h"

struct Nothing {};

int main(int argc, char **argv) {
    if (argc < 2) {
        std::cerr << "which port?\n";
        return 2;
    }
    const int port = std::atoi(argv[1]);
    const char *interval = std::getenv("PING_INTERVAL_MS");
    // uWebSockets pings by itself, before a connection has been idle for this long
    // (whole seconds, 8 at least).
    const int seconds = (interval ? std::atoi(interval) : 25000) / 1000 + 10;
    uWS::App app;
    app.ws<Nothing>("/*", {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 1000 * 1000,
        .idleTimeout = static_cast<unsigned short>(seconds < 8 ? 8 : seconds),
        .maxBackpressure = 1000 * 1000,
        .closeOnBackpressureLimit = false,
        .resetIdleTimeoutOnSend = false,
        .sendPingsAutomatically = true,
        .upgrade = nullptr,
        .message = [&app](auto *socket, std::string_view message, uWS::OpCode code) {
            switch (message.empty() ? 0 : message.front()) {
                case 'e':
                    socket->send(message, code);
                    break;
                case 'p':
                    app.publish("room", message, code);
                    break;
                case 's':
                    socket->subscribe("room");
                    socket->send(message, code);
                    break;
            }
        },
    }).listen("0.0.0.0", port, [port](auto *listening) {
        if (!listening) std::exit(1);
        std::cout << "listening on " << port << std::endl;
    }).run();
}
