import { Component, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { createClient } from "@heartline/client";
import { HeartlineProvider } from "@heartline/client/react";
import { Chat } from "./chat.jsx";
import "./style.css";

/** Each tab is a device of its own. */
const device = (sessionStorage.device ??= crypto.randomUUID().slice(0, 8));

function connectAs(user) {
  const token = async () => {
    const response = await fetch(`/dev/token?user=${encodeURIComponent(user)}&device=${device}`);
    if (!response.ok) throw new Error(`no token: ${response.status}`);
    return (await response.json()).token;
  };
  return createClient(location.origin, { token, autoConnect: false });
}

function Welcome({ onName }) {
  return (
    <form
      className="welcome"
      onSubmit={(event) => {
        event.preventDefault();
        const name = new FormData(event.currentTarget).get("name").trim();
        if (name) onName(name);
      }}
    >
      <h1>Heartline demo</h1>
      <label htmlFor="name">Your name</label>
      <input id="name" name="name" maxLength={32} autoComplete="off" autoFocus required />
      <button>Come in</button>
    </form>
  );
}

/** Whatever goes wrong within is said, and can be tried again. */
class Boundary extends Component {
  state = { error: undefined };
  static getDerivedStateFromError = (error) => ({ error });
  render() {
    const { error } = this.state;
    if (!error) return this.props.children;
    return (
      <main className="welcome">
        <h1>Something went wrong here</h1>
        <p role="alert">{String(error.message ?? error)}</p>
        <button onClick={() => this.setState({ error: undefined })}>Show it again</button>
      </main>
    );
  }
}

function App() {
  const [client, setClient] = useState(() => sessionStorage.user && connectAs(sessionStorage.user));
  const enter = (name) => {
    sessionStorage.user = name;
    setClient(connectAs(name));
  };
  const leave = () => {
    delete sessionStorage.user;
    setClient(undefined);
  };
  if (!client) return <Welcome onName={enter} />;
  return (
    <HeartlineProvider client={client}>
      <Boundary>
        <Chat me={sessionStorage.user} onLeave={leave} />
      </Boundary>
    </HeartlineProvider>
  );
}

createRoot(document.getElementById("app")).render(
  <StrictMode>
    <App />
  </StrictMode>,
);
