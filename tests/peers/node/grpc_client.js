// A gRPC client on grpc-js. Messages are plain text, so nothing has to be generated.
//
//   grpc_client.js TARGET CASE[:ARGUMENT]...
//
// It does exactly what ../java/src/main/java/GrpcClient.java does.
"use strict";

const grpc = require("@grpc/grpc-js");

const SERVICE = "outrider.test.Echo";
const encode = (text) => Buffer.from(text);
const decode = (bytes) => bytes.toString();
const path = (method) => `/${SERVICE}/${method}`;
const options = () => ({ deadline: Date.now() + 20_000 });

const unary = (method) => (client, argument) =>
  new Promise((resolve, reject) => {
    const done = (error, answer) => (error ? reject(error) : resolve(answer));
    client.makeUnaryRequest(path(method), encode, decode, argument, options(), done);
  });

function serverStream(client, argument) {
  return new Promise((resolve, reject) => {
    let count = 0;
    const call = client.makeServerStreamRequest(path("ServerStream"), encode, decode, argument, options());
    call.on("data", () => (count += 1));
    call.on("error", reject);
    call.on("end", () => resolve(count));
  });
}

// Each request is sent only after the answer to the one before.
function bidi(client, argument) {
  return new Promise((resolve, reject) => {
    const turns = Number(argument);
    let seen = 0;
    let last = "";
    const call = client.makeBidiStreamRequest(path("Bidi"), encode, decode, options());
    call.on("data", (answer) => {
      last = answer;
      seen += 1;
      if (seen < turns) {
        call.write(String(seen));
      } else {
        call.end();
      }
    });
    call.on("error", reject);
    call.on("end", () => resolve(`${last}, completed`));
    call.write("0");
  });
}

const CASES = { unary: unary("Unary"), fail: unary("Fail"), server_stream: serverStream, bidi };

async function main([target, ...calls]) {
  const client = new grpc.Client(target, grpc.credentials.createInsecure());
  for (const text of calls) {
    const [name, ...rest] = text.split(":");
    try {
      console.log(`${name} 0 ${await CASES[name](client, rest.join(":"))}`);
    } catch (error) {
      console.log(`${name} ${error.code} ${error.details}`);
    }
  }
  client.close();
}

main(process.argv.slice(2));
