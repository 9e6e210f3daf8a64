package thousandx.peer;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Duration;
import java.util.List;
import java.util.UUID;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.context.event.ApplicationReadyEvent;
import org.springframework.context.annotation.Bean;
import org.springframework.context.event.EventListener;
import org.springframework.core.env.Environment;
import org.springframework.data.redis.core.ReactiveStringRedisTemplate;
import org.springframework.data.redis.core.script.RedisScript;
import org.springframework.http.HttpStatus;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.kafka.config.ConcurrentKafkaListenerContainerFactory;
import org.springframework.kafka.core.ProducerFactory;
import org.springframework.kafka.requestreply.CorrelationKey;
import org.springframework.kafka.requestreply.KafkaReplyTimeoutException;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.KafkaHeaders;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.server.ResponseStatusException;
import reactor.core.publisher.Mono;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.json.JsonMapper;

/**
 * Spring's own request and reply over Kafka, for comparison: WebFlux on Netty, ReplyingKafkaTemplate, Lettuce; one
 * script call per acquire and one ZREM per release. The wire format is the server's, whose header names are Spring's,
 * so the same `thousandx work` answers.
 */
@SpringBootApplication
@RestController
public class Application {
  private static final Duration REPLY_TIMEOUT = Duration.ofSeconds(10);
  /** A permit outlives its request by 5 s when its holder dies. */
  private static final Duration LEASE = REPLY_TIMEOUT.plusSeconds(5);
  private static final Duration ASSIGNMENT_TIMEOUT = Duration.ofSeconds(30);
  private static final byte[] DEFAULT_TASK = "{\"action\":\"get_gift_code\"}".getBytes(UTF_8);
  private static final String REQUEST_ID = "x-request-id";

  /** KEYS[1] the set; ARGV: capacity, lease in ms, id. True when the permit was taken. */
  private static final RedisScript<Boolean> ACQUIRE = RedisScript.of("""
      local time = redis.call('TIME')
      local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
      redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
      if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
      redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[3])
      return 1
      """, Boolean.class);

  private final ReactiveStringRedisTemplate redis;
  private final JsonMapper json;
  private final Environment settings;
  private final List<String> capacitySet;
  private final String capacity;
  private final String tasksTopic;
  private ReplyingKafkaTemplate<String, byte[], byte[]> kafka;

  Application(ReactiveStringRedisTemplate redis, JsonMapper json, Environment settings) {
    this.redis = redis;
    this.json = json;
    this.settings = settings;
    this.capacitySet = List.of(settings.getRequiredProperty("peer.capacity-set"));
    this.capacity = settings.getRequiredProperty("peer.capacity");
    this.tasksTopic = settings.getRequiredProperty("peer.tasks-topic");
  }

  public static void main(String[] arguments) {
    SpringApplication.run(Application.class, arguments);
  }

  @PostMapping("/queue")
  Mono<ResponseEntity<byte[]>> queue(@RequestBody(required = false) byte[] body) {
    byte[] task = body == null ? DEFAULT_TASK : body;
    try {
      json.readTree(task);
    } catch (JacksonException error) {
      return refuse(HttpStatus.BAD_REQUEST, "malformed_json");
    }
    String id = UUID.randomUUID().toString();
    return redis.execute(ACQUIRE, capacitySet, List.of(capacity, Long.toString(LEASE.toMillis()), id))
        .next()
        .flatMap(granted -> granted ? ask(id, task) : refuse(HttpStatus.TOO_MANY_REQUESTS, "capacity_reached"));
  }

  /** Sends the task, waits for its reply, and gives the permit back in whatever way that ends. */
  private Mono<ResponseEntity<byte[]>> ask(String id, byte[] task) {
    var record = new ProducerRecord<String, byte[]>(tasksTopic, task);
    long deadlineMs = System.currentTimeMillis() + REPLY_TIMEOUT.toMillis();
    record.headers()
        .add(REQUEST_ID, id.getBytes(UTF_8))
        .add("x-deadline-ms", Long.toString(deadlineMs).getBytes(UTF_8))
        .add("content-type", MediaType.APPLICATION_JSON_VALUE.getBytes(UTF_8));
    return Mono.fromFuture(kafka.sendAndReceive(record))
        .map(reply -> ResponseEntity.ok()
            .contentType(MediaType.APPLICATION_JSON)
            .header(REQUEST_ID, id)
            .body(reply.value()))
        .onErrorResume(KafkaReplyTimeoutException.class,
            error -> refuse(HttpStatus.GATEWAY_TIMEOUT, "reply_timeout"))
        .doFinally(signal -> redis.opsForZSet().remove(capacitySet.get(0), id).subscribe());
  }

  private static Mono<ResponseEntity<byte[]>> refuse(HttpStatus status, String code) {
    return Mono.error(new ResponseStatusException(status, code));
  }

  @GetMapping("/readyz")
  String readyz() {
    return "ready\n";
  }

  /** Says that it serves, once replies are read. */
  @EventListener
  void ready(ApplicationReadyEvent event) throws InterruptedException {
    kafka = event.getApplicationContext().getBean(ReplyingKafkaTemplate.class);
    if (!kafka.waitForAssignment(ASSIGNMENT_TIMEOUT)) {
      throw new IllegalStateException("no partition of the results topic was assigned");
    }
    System.out.println("listening on http://127.0.0.1:" + settings.getProperty("local.server.port"));
  }

  /** Reads all replies, in a group of its own, and correlates by the request's id as text. */
  @Bean
  static ReplyingKafkaTemplate<String, byte[], byte[]> replyingTemplate(
      ProducerFactory<String, byte[]> producers,
      ConcurrentKafkaListenerContainerFactory<String, byte[]> containers,
      @Value("${peer.results-topic}") String resultsTopic) {
    var replies = containers.createContainer(resultsTopic);
    replies.getContainerProperties().setGroupId("spring-peer-" + UUID.randomUUID());
    var template = new ReplyingKafkaTemplate<>(producers, replies);
    template.setSharedReplyTopic(true);
    template.setDefaultReplyTimeout(REPLY_TIMEOUT);
    template.setCorrelationIdStrategy(record -> new CorrelationKey(record.headers().lastHeader(REQUEST_ID).value()));
    return template;
  }
}
